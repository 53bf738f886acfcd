"""Each layer's error against its rank, with what was chosen; the network's error against its cost."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from ...conv import Size
from ...planning.candidates import label
from ...planning.options import FixedRanks, PlanOptions
from ...planning.plan import Plan
from ...planning.tradeoff import LayerCurves, RankCurve, Tradeoff
from ...text import count_text, error_text
from ..data import Report
from ..svg import Axes, Line, Mark, chart

#: Options that name a budget, or stand for one; and those of a budget of time alone. Each has a value.
_BUDGETS = frozenset(
    {"--macs", "--params", "--error", "--accuracy-drop", "--energy", "--speedup", "--latency", "--rule"}
)
_OF_TIME = frozenset({"--runtime", "--threads", "--latency-table"})


@dataclass(frozen=True)
class LayerChart:
    """One small chart: a layer's name, what it became ("" for one that stays), and its curves."""

    layer: str
    becomes: str
    svg: Markup


@dataclass(frozen=True)
class NetworkChart:
    """One large chart.

    Attributes:
        heading: what it shows.
        wide: the chart.
        narrow: the same for a phone.
        unseen: points that a logarithmic axis has no place for, in words.
        command: with {R} where the budget goes.
        budget: what stands there first.
    """

    heading: str
    wide: Markup
    narrow: Markup
    unseen: tuple[str, ...]
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
    axes = Axes(300, 200, _rank_title(layer), "relative error", left=56, top=8, right=12, ticks=4)
    svg = chart(axes, lines, marks, f"error of {layer.layer} by rank")
    return LayerChart(layer.layer, "" if choice is None else choice.label, svg)


def _rank_title(layer: LayerCurves) -> str:
    """Of schemes with several ranks the first is on the axis."""
    several = any(len(ranks) > 1 for curve in layer.curves for ranks in curve.ranks)
    return "rank (the first of several)" if several else "rank"


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
    error = "output error, predicted" if found.measured else "lost energy, root of the sum"
    points = tuple(zip(found.ratios, found.errors, strict=True))
    budgets = tuple(_budget(ratio) for ratio in found.ratios)

    def words(ratio: float, value: float) -> str:
        return f"{found.label} {ratio:.3f} of the original's\n{error}: {error_text(value)}"

    tips = tuple(f"{words(*point)}\nclick: its command" for point in points)
    budget = _budget(found.chosen[0])
    marks = [
        Mark(found.chosen, "chosen", f"this plan\n{words(*found.chosen)}", "this plan", budget, below=True)
    ]
    if found.reference is not None:
        text = f"the ranks of AMCT's rank rule, with factors fitted as here\n{words(*found.reference)}"
        marks.insert(0, Mark(found.reference, "amct", text, "AMCT's rank rule"))
    titles = f"{found.label} after / before", f"{error} (relative)" if found.measured else error
    wide, narrow = (
        chart(axes, [Line(points, "curve", tips, budgets)], marks, f"{error} against {found.label}")
        for axes in (Axes(720, 360, *titles, ticks=10), Axes(340, 300, *titles, left=56, ticks=5))
    )
    unseen = tuple(mark.tip.replace("\n", ", ") for mark in marks if not mark.at[1])
    heading = "Error against " + ("time" if found.budget == "latency" else found.label)
    return NetworkChart(heading, wide, narrow, unseen, _command(report, found.budget), budget)


def _budget(ratio: float) -> str:
    """A budget that reaches this ratio: rounded up, with room for what the rounding of text cuts off."""
    return f"{min(math.ceil(ratio * 1000 - 1e-9) / 1000, 1.0):g}"


def _command(report: Report, budget: str) -> str:
    """The command with {R} in the place of its budget, into another folder."""
    words = report.made.command
    if not words:
        return _call(report, budget)
    left_out = _BUDGETS if budget == "latency" else _BUDGETS | _OF_TIME
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in left_out:
            next(rest, None)
        elif word in ("-o", "--output"):
            kept += [word, next(rest, "out").rstrip("/") + "-{R}"]
        elif word != "--force":
            kept.append(word)
    return f"{' '.join(map(_quoted, kept))} --{budget} {{R}}"


def _quoted(word: str) -> str:
    """A word as a shell reads it; {R} at its end stays as it is."""
    stem = word.removesuffix("-{R}")
    return shlex.quote(stem) + word[len(stem) :]


def _call(report: Report, budget: str) -> str:
    """The call from Python with {R} in the place of its budget: `model` and `data` are the caller's."""
    assert report.plan is not None, "Bug: a trade-off without a plan"
    options, plain = report.plan.options, PlanOptions()
    given = {
        "schemes": options.schemes,
        "multiple": options.device or options.multiple,
        "only": options.only,
        "skip": options.skip,
        "ranks": {one.pattern: _rank(one) for one in options.ranks},
    }
    usual = {"multiple": plain.multiple, "only": (), "skip": (), "ranks": {}}
    words = ["no_data=True" if report.plan.calibration is None else "data=data", f"{budget}={{R}}"]
    if budget == "latency" and report.plan.timing is not None:
        given["runtime"] = report.plan.timing.setting.partition(" ")[0]
    words += [f"{name}={value!r}" for name, value in given.items() if value != usual.get(name)]
    return f"twofold.decompose(model, {', '.join(words)})"


def _rank(fixed: FixedRanks) -> Size | int | str:
    if fixed.ranks is None:
        return "full"
    return fixed.ranks[0] if len(fixed.ranks) == 1 else fixed.ranks
