"""The page: the sections put into the template, with its style and script inside."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ..compare import TIMES
from ..text import error_text
from . import svg
from .sections import curves, images, layers, network, origin, summary, training

if TYPE_CHECKING:
    from .data import Report


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["error"] = error_text
    environment.filters["arrow"] = svg.arrow
    environment.globals["tip"] = svg.tip
    return environment


def page(report: Report) -> str:
    """Make the page of a report; equal reports give equal text."""
    plan = report.plan
    return _environment().get_template("page.html.j2").render(
        report=report,
        times_legend=TIMES,
        plan=plan,
        style=Markup(_asset("style.css")),
        script=Markup(_asset("script.js")),
        kind=summary.kind(report),
        sentence=summary.sentence(report),
        tiles=summary.tiles(report),
        drawing=network.drawing(report),
        tradeoffs=tuple(curves.network_charts(report)),
        columns=() if plan is None else layers.columns(plan),
        rows=() if plan is None else layers.rows(plan, report.graph),
        charts=curves.layer_charts(report),
        schemes=curves.schemes(report),
        rank_note=curves.rank_note(report),
        samples=images.samples(report),
        trainings=training.charts(report),
        origin=origin.origin(report),
    )  # fmt: skip


def files(report: Report, stem: str = "report") -> dict[str, bytes]:
    """JSON and page of a report, by file name."""
    return {
        f"{stem}.json": report.to_json().encode(),
        f"{stem}.html": page(report).encode("utf-8", "replace"),
    }
