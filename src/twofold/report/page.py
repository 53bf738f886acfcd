"""The page: the sections put into the template, with its style and script inside."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from ..calibration.measure import LOST, NOTABLE, verdict
from ..compare import TIMES
from ..text import error_text
from . import svg
from .data import BRIGHTER
from .sections import curves, images, layers, network, origin, summary, training

if TYPE_CHECKING:
    from .data import Report


#: A part of a name with the separators behind it; characters of one that may break anywhere; of a word that
#: is taken for a name.
_PART = re.compile(r"[^./_:\\-]*[./_:\\-]*")
_LONGEST, _WORD = 32, 20


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["error"] = error_text
    environment.filters["value"] = svg.value
    environment.filters["name"] = breakable
    environment.filters["names"] = _breakable_words
    environment.filters["verdict"] = verdict
    environment.filters["arrow"] = svg.arrow
    environment.globals["tip"] = svg.tip
    return environment


def breakable(name: str) -> Markup:
    """A name that breaks behind its separators only, unless a part of it is longer than a line."""
    parts = [part for part in _PART.findall(name) if part]
    long = Markup('<span class="long">{}</span>')
    return Markup("<wbr>").join(long.format(part) if len(part) > _LONGEST else escape(part) for part in parts)


def _breakable_words(text: str) -> Markup:
    """A sentence whose long words are names."""
    words = (breakable(word) if len(word) > _WORD else escape(word) for word in text.split(" "))
    return Markup(" ").join(words)


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
        headline=summary.headline(report),
        tiles=summary.tiles(report),
        drawings=network.drawings(report),
        tradeoffs=tuple(curves.network_charts(report)),
        rows=() if plan is None else layers.changed(plan, report.graph),
        unchanged=None if plan is None else layers.unchanged(plan, report.graph),
        charts=curves.layer_charts(report),
        schemes=curves.schemes(report),
        samples=images.samples(report),
        brighter=BRIGHTER,
        notable=NOTABLE,
        lost=LOST,
        trainings=training.charts(report),
        origin=origin.origin(report),
    )  # fmt: skip


def files(report: Report, stem: str = "report") -> dict[str, bytes]:
    """JSON and page of a report, by file name."""
    return {
        f"{stem}.json": report.to_json().encode(),
        f"{stem}.html": page(report).encode("utf-8", "replace"),
    }
