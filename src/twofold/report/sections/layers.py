"""One row per convolution: what was decomposed, and, apart, what stays with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...calibration.measure import verdict
from ...formats.graph import NetGraph
from ...planning.plan import Choice, Plan
from ...planning.timing import milliseconds
from ...text import count_text, error_text, shape_text
from .summary import short


@dataclass(frozen=True)
class Cell:
    """One number of a layer.

    Attributes:
        head: of its column, with the unit.
        text: the number.
        sort: what the column is sorted by.
        detail: the line below.
        bars: lengths in percent: of an error its own, of a count (before, after) as fractions of the largest.
        verdict: on an error; "" for what is no error.
    """

    head: str
    text: str
    sort: float
    detail: str = ""
    bars: tuple[float, ...] = ()
    verdict: str = ""


@dataclass(frozen=True)
class Row:
    """One convolution.

    Attributes:
        layer: its name.
        shape: in words.
        becomes: what stands in its place, or why it stays.
        notes: what else is to be known.
        cells: its numbers.
    """

    layer: str
    shape: str
    becomes: str
    notes: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Unchanged:
    """What stays.

    Attributes:
        rows: one per convolution.
        macs: of them all, as a fraction of the network's; None where there are none to compare with.
    """

    rows: tuple[Row, ...]
    macs: float | None


def changed(plan: Plan, graph: NetGraph | None = None) -> tuple[Row, ...]:
    """The convolutions that were decomposed, in the model's order where that is known."""
    most = max((choice.macs[0] for choice in plan.choices), default=0) or 1
    rows = [
        Row(
            choice.layer, shape_text(choice.geometry), choice.label,
            (*(["more expensive than the layer itself"] if choice.costs_more else []), *choice.notes),
            tuple(_cells(plan, choice, most)),
        )
        for choice in plan.choices
    ]  # fmt: skip
    return _in_order(rows, graph)


def unchanged(plan: Plan, graph: NetGraph | None = None) -> Unchanged:
    """The convolutions that stay."""
    rows = []
    for one in plan.skipped:
        shape = "" if one.geometry is None else shape_text(one.geometry)
        macs = "?" if one.macs is None else count_text(one.macs)
        params = count_text(one.params) if one.params else "?"
        cells = (Cell(_macs(plan), macs, one.macs or 0), Cell("weights", params, one.params or 0))
        rows.append(Row(one.name, shape, one.reason, (), cells))
    every = plan.totals.macs[0]
    spent = every - sum(choice.macs[0] for choice in plan.choices)
    return Unchanged(_in_order(rows, graph), spent / every if every else None)


def _in_order(rows: list[Row], graph: NetGraph | None) -> tuple[Row, ...]:
    places = {node.layer: i for i, node in reversed(list(enumerate(graph.nodes if graph else ())))}
    return tuple(sorted(rows, key=lambda row: places.get(row.layer, len(places))))


def _cells(plan: Plan, choice: Choice, most: int) -> Iterator[Cell]:
    yield _count(_macs(plan), choice.macs, most)
    yield _count("weights", choice.params)
    yield _error("layer error", choice.relative_error)
    if any(one.output_error is not None for one in plan.choices):
        yield _error("output error", choice.output_error)
    if any(one.timing is not None for one in plan.choices):
        timing = choice.timing
        pair = None if timing is None else timing.measured or timing.predicted
        yield Cell("time", "", 0.0) if pair is None else Cell("time", milliseconds(pair), pair[1])


def _macs(plan: Plan) -> str:
    return f"MACs per {plan.macs_per}"


def _count(head: str, pair: tuple[int, int], most: int | None = None) -> Cell:
    bars = () if most is None else (100 * pair[0] / most, 100 * pair[1] / most)
    return Cell(head, f"{count_text(pair[0])} → {count_text(pair[1])}", pair[1], short(pair), bars)


def _error(head: str, error: float | None) -> Cell:
    if error is None:
        return Cell(head, "?", -1.0)
    return Cell(head, error_text(error), error, "", (100 * min(error, 1.0),), verdict(error))
