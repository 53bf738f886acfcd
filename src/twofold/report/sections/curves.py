"""Each layer's error against its rank, with what was chosen; the network's error against its cost."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ...planning.candidates import label
from ...planning.plan import Plan
from ...planning.tradeoff import LayerCurves, RankCurve, Tradeoff
from ...text import count_text, error_text, ranks_text
from ..data import Report
from ..svg import Axes, Line, Mark, chart

#: Options that name a budget, each with its value, or stand for one.
_BUDGETS = frozenset(
    {"--macs", "--params", "--error", "--accuracy-drop", "--energy", "--speedup", "--latency", "--rule"}
)


@dataclass(frozen=True)
class LayerChart:
    """One small chart: a layer's name, what it became, and its curves."""

    layer: str
    becomes: str
    svg: Markup


@dataclass(frozen=True)
class NetworkChart:
    """One large chart.

    Attributes:
        heading: what it shows.
        svg: the chart.
        command: with {R} where the budget goes.
        budget: what stands there first.
    """

    heading: str
    svg: Markup
    command: str
    budget: str


def layer_charts(report: Report) -> tuple[LayerChart, ...]:
    """A chart per layer that was factorized."""
    plan, tradeoff_curves = report.plan, report.tradeoff_curves
    if plan is None or tradeoff_curves is None:
        return ()
    return tuple(
        _layer(plan, one) for one in tradeoff_curves.layers if any(curve.ranks for curve in one.curves)
    )


def schemes(report: Report) -> tuple[str, ...]:
    """Schemes that appear in the charts of layers."""
    found = [
        curve.scheme
        for one in (report.tradeoff_curves.layers if report.tradeoff_curves else ())
        for curve in one.curves
    ]
    return tuple(dict.fromkeys(found))


def _layer(plan: Plan, layer: LayerCurves) -> LayerChart:
    choice = next((one for one in plan.choices if one.layer == layer.layer), None)
    lines = [_rank_line(curve, plan) for curve in layer.curves if curve.ranks]
    marks = []
    if choice is not None and choice.relative_error is not None:
        text = f"chosen: {choice.label}\nerror {error_text(choice.relative_error)}\n"
        text += f"MACs {count_text(choice.macs[1])} of {count_text(choice.macs[0])}"
        marks.append(Mark((choice.ranks[0], choice.relative_error), "chosen", text))
    axes = Axes(300, 176, left=44, bottom=24, top=8, right=10, ticks=4)
    svg = chart(axes, lines, marks, f"error of {layer.layer} by rank")
    return LayerChart(layer.layer, "stays as it is" if choice is None else choice.label, svg)


def _rank_line(curve: RankCurve, plan: Plan) -> Line:
    points = tuple((float(ranks[0]), error) for ranks, error in zip(curve.ranks, curve.errors, strict=True))
    per = "" if plan.macs_per == "image" else f" per {plan.macs_per}"
    tips = tuple(
        f"{label(curve.scheme, curve.variant, ranks)}\nerror {error_text(error)}\n"
        f"MACs {count_text(macs)}{per}"
        for ranks, error, macs in zip(curve.ranks, curve.errors, curve.macs, strict=True)
    )
    order = sorted(range(len(points)), key=lambda i: points[i])
    css = f"s-{curve.scheme}" + (" second" if curve.variant == "wh" else "")
    return Line(tuple(points[i] for i in order), css, tuple(tips[i] for i in order))


def network_charts(report: Report) -> Iterator[NetworkChart]:
    """The whole trade-off, by MACs and by time."""
    for tradeoff in report.tradeoff_curves.tradeoffs if report.tradeoff_curves else ():
        yield _network(report, tradeoff)


def _network(report: Report, found: Tradeoff) -> NetworkChart:
    error = "output error, predicted" if found.measured else "lost energy, root of the sum over layers"
    points = tuple(zip(found.ratios, found.errors, strict=True))
    budgets = tuple(_budget(ratio) for ratio in found.ratios)
    tips = tuple(
        f"{found.label} {ratio:.3f} of the original\n{error}: {error_text(value)}\nclick: its command"
        for ratio, value in points
    )
    marks = []
    if found.reference is not None:
        ratio, value = found.reference
        text = (
            f"the reference rule's ranks (AMCT), with factors fitted as here\n{found.label} {ratio:.3f}\n"
            f"{error}: {error_text(value)}"
        )
        marks.append(Mark((ratio, value), "reference", text, "reference rule (AMCT)"))
    ratio, value = found.chosen
    text = f"this plan\n{found.label} {ratio:.3f}\n{error}: {error_text(value)}"
    marks.append(Mark((ratio, value), "chosen", text, "this plan", _budget(ratio), below=True))
    axes = Axes(720, 360, f"{found.label} after / before", error, x_range=(0.0, 1.0), ticks=10)
    svg = chart(axes, [Line(points, "curve", tips, budgets)], marks, f"{error} against {found.label}")
    heading = "Error against " + ("time" if found.budget == "latency" else found.label)
    return NetworkChart(heading, svg, _command(report.made.command, found.budget), _budget(ratio))


def _budget(ratio: float) -> str:
    """A budget that reaches this ratio: rounded up, with room for what the rounding of text cuts off."""
    return f"{min(math.ceil(ratio * 1000 - 1e-9) / 1000, 1.0):g}"


def _command(words: Sequence[str], budget: str) -> str:
    """The command with {R} in the place of its budget, into another folder."""
    if not words:
        return f"twofold.decompose(model, {budget}={{R}})"
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in _BUDGETS:
            next(rest, None)
        elif word.partition("=")[0] not in _BUDGETS and word != "--force":
            kept.append(word)
            if word in ("-o", "--output"):
                kept.append(next(rest, "out").rstrip("/") + "-{R}")
    return f"{' '.join(map(_quoted, kept))} --{budget} {{R}}"


def _quoted(word: str) -> str:
    """A word as a shell reads it; {R} at its end stays as it is."""
    stem = word.removesuffix("-{R}")
    return shlex.quote(stem) + word[len(stem) :]


def rank_note(report: Report) -> str:
    """What the horizontal axis means where a scheme has several ranks."""
    layers = report.tradeoff_curves.layers if report.tradeoff_curves else ()
    several = next(
        (ranks for one in layers for curve in one.curves for ranks in curve.ranks if len(ranks) > 1), None
    )
    return "" if several is None else f"of several ranks, such as {ranks_text(several)}, the first counts"
