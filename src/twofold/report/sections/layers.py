"""One row and one bar per convolution, those that stay with their reasons."""

from __future__ import annotations

from dataclasses import dataclass

from ...conv import Skipped
from ...formats.graph import NetGraph
from ...planning.plan import Choice, Plan, ratio
from ...planning.timing import milliseconds
from ...text import count_text, error_text, shape_text


@dataclass(frozen=True)
class Row:
    """One convolution; numbers that sort beside the text that shows them.

    Attributes:
        layer: its name.
        shape: in words.
        becomes: what stands in its place, or why it stays.
        changed: whether it was decomposed.
        bar: (before, after) MACs as shares of the largest layer's, in percent.
        cells: (text, number to sort by) of the columns behind.
    """

    layer: str
    shape: str
    becomes: str
    changed: bool
    bar: tuple[float, float]
    cells: tuple[tuple[str, float], ...]


def columns(plan: Plan) -> tuple[str, ...]:
    """Heads of the columns behind the bar."""
    heads = ["MACs", "ratio", "params", "ratio", "error"]
    heads += ["output error"] if _has_output_errors(plan) else []
    heads += ["time"] if _has_times(plan) else []
    return tuple(heads)


def rows(plan: Plan, graph: NetGraph | None = None) -> tuple[Row, ...]:
    """All convolutions of a plan in the model's order; where that is not known, decomposed ones first."""
    every = [*(choice.macs[0] for choice in plan.choices), *(one.macs or 0 for one in plan.skipped)]
    most = max(every, default=0) or 1
    found = [_changed(plan, choice, most) for choice in plan.choices]
    found += [_kept(plan, one, most) for one in plan.skipped]
    places = {node.layer: i for i, node in reversed(list(enumerate(graph.nodes if graph else ())))}
    return tuple(sorted(found, key=lambda row: places.get(row.layer, len(places))))


def _changed(plan: Plan, choice: Choice, most: int) -> Row:
    cells = [
        *_pair(choice.macs), *_pair(choice.params), _error(choice.relative_error),
    ]  # fmt: skip
    if _has_output_errors(plan):
        cells.append(_error(choice.output_error))
    if _has_times(plan):
        timing = choice.timing
        pair = None if timing is None else timing.measured or timing.predicted
        cells.append(("", 0.0) if pair is None else (milliseconds(pair), pair[1]))
    notes = [*(["more expensive than the layer itself"] if choice.costs_more else []), *choice.notes]
    becomes = "; ".join([choice.label, *notes])
    bar = (100 * choice.macs[0] / most, 100 * choice.macs[1] / most)
    return Row(choice.layer, shape_text(choice.geometry), becomes, True, bar, tuple(cells))


def _kept(plan: Plan, one: Skipped, most: int) -> Row:
    shape = "" if one.geometry is None else shape_text(one.geometry)
    macs = one.macs or 0
    cells = [("?" if one.macs is None else count_text(macs), float(macs)), ("", 1.0)]
    cells += [(count_text(one.params) if one.params else "?", float(one.params)), ("", 1.0)]
    cells += [("", -1.0)] * (len(columns(plan)) - len(cells))
    share = 100 * macs / most
    return Row(one.name, shape, one.reason, False, (share, share), tuple(cells))


def _pair(pair: tuple[int, int]) -> tuple[tuple[str, float], tuple[str, float]]:
    text = f"{count_text(pair[0])} → {count_text(pair[1])}"
    return (text, float(pair[1])), (f"{ratio(pair):.3f}", ratio(pair))


def _error(error: float | None) -> tuple[str, float]:
    return error_text(error), -1.0 if error is None else error


def _has_output_errors(plan: Plan) -> bool:
    return any(choice.output_error is not None for choice in plan.choices)


def _has_times(plan: Plan) -> bool:
    return any(choice.timing is not None for choice in plan.choices)
