"""A plan as a matplotlib figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError, OptionError
from ..planning.plan import Plan
from ..planning.tradeoff import Tradeoff

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..decomposition.result import Result
    from .data import Report

_WAS, _IS, _CURVE = "#8193a8", "#d9731a", "#0072b2"


def plot(source: Result[Any] | Report) -> Figure:
    """Draw each layer's MACs before and after, and the network's error against its cost.

    Args:
        source: a result of `decompose`, or a report of one.

    Raises:
        OptionError: a report of something else.
        MissingExtraError: matplotlib is not installed.
    """
    plan, tradeoff_curves = source.plan, source.tradeoff_curves
    if plan is None:
        raise OptionError("the report holds no plan; give a result of twofold.decompose, or its report")
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("plots", "matplotlib", "plot") from error
    tradeoffs = tradeoff_curves.tradeoffs if tradeoff_curves is not None else ()
    rows = len(plan.choices) + len(plan.skipped)
    # Not by pyplot, which would keep the figure and choose a window system.
    figure = Figure(figsize=(6 + 5 * len(tradeoffs), max(3.0, 0.28 * rows + 1)), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(tradeoffs), squeeze=False)[0]
    _bars(first, plan)
    for axes, tradeoff in zip(others, tradeoffs, strict=True):
        _curve(axes, tradeoff)
    return figure


def _bars(axes: Axes, plan: Plan) -> None:
    names = [*(one.layer for one in plan.choices), *(one.name for one in plan.skipped)]
    before = [*(one.macs[0] for one in plan.choices), *(one.macs or 0 for one in plan.skipped)]
    places = range(len(names))
    axes.barh(places, before, height=0.7, color=_WAS, label="before, and what stays")
    after = [one.macs[1] for one in plan.choices]
    axes.barh(range(len(after)), after, height=0.4, color=_IS, label="after")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel(f"MACs per {plan.macs_per}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _curve(axes: Axes, tradeoff: Tradeoff) -> None:
    shown = [(x, y) for x, y in zip(tradeoff.ratios, tradeoff.errors, strict=True) if y > 0]
    axes.semilogy(*zip(*shown, strict=True), color=_CURVE, marker=".", label="best at each cost")
    if tradeoff.chosen[1] > 0:
        axes.plot(*tradeoff.chosen, "o", color=_IS, label="this plan")
    if tradeoff.reference is not None and tradeoff.reference[1] > 0:
        axes.plot(*tradeoff.reference, "D", color=_WAS, label="reference rule (AMCT)")
    axes.set_xlabel(f"{tradeoff.label} after / before")
    axes.set_ylabel("output error, predicted" if tradeoff.measured else "lost energy, root of the sum")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
