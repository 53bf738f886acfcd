"""How often a graph inside of a node runs for each time that the node does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction

from onnx import GraphProto, NodeProto, numpy_helper

from .attributes import integer, integers
from .convolution import Use
from .graphs import Constant, Graphs, Scope, is_op
from .shapes import ValueShapes

#: Version of ONNX's operators from which Scan has no batch axis.
_PLAIN_SCAN = 9


def turns(graphs: Graphs, shapes: ValueShapes, scope: Scope) -> int | None:
    """How often a graph runs for a run of the model; None where that depends on values.

    A branch whose condition is not constant counts once: see `counted_once`.
    """
    if scope.holder is None or scope.outer is None:
        return 1
    outer = turns(graphs, shapes, scope.outer)
    own = _TURNS[scope.holder.op_type](graphs, shapes, scope) if is_op(scope.holder, *_TURNS) else None
    return 0 if 0 in (outer, own) else None if outer is None or own is None else outer * own


def _of_branch(graphs: Graphs, shapes: ValueShapes, scope: Scope) -> int | None:
    taken = _constant(graphs, scope, 0)
    return 1 if taken is None else int(bool(taken) == (scope.role == "then_branch"))


def _of_loop(graphs: Graphs, shapes: ValueShapes, scope: Scope) -> int | None:
    count, start = _constant(graphs, scope, 0), _constant(graphs, scope, 1)
    if start == 0 or count == 0:
        return 0
    return count if is_counted(scope.graph) else None


def _of_scan(graphs: Graphs, shapes: ValueShapes, scope: Scope) -> int | None:
    node, outer = _place(scope)
    number = integer(node, "num_scan_inputs", 0)
    axis = (*integers(node, "scan_input_axes", ()), 0)[0]
    shape = shapes.of(outer, node.input[-number]) if 0 < number <= len(node.input) else None
    if graphs.opset < _PLAIN_SCAN or shape is None or not -len(shape) <= axis < len(shape):
        return None
    return shape[axis]


#: By operator that holds graphs; what any other does with them is not known.
_TURNS: dict[str, Callable[[Graphs, ValueShapes, Scope], int | None]] = {
    "If": _of_branch, "Loop": _of_loop, "Scan": _of_scan,
}  # fmt: skip


def _place(scope: Scope) -> tuple[NodeProto, Scope]:
    """The node around a graph, and the graph that has it."""
    assert scope.holder is not None, "Bug: the main graph is in no node"
    assert scope.outer is not None, "Bug: a node is in no graph"
    return scope.holder, scope.outer


def _constant(graphs: Graphs, scope: Scope, index: int) -> int | None:
    """The constant number that the node around a graph reads; None where it reads none."""
    node, outer = _place(scope)
    names = node.input
    found = graphs.constant(outer, names[index]) if len(names) > index and names[index] else ""
    if not isinstance(found, Constant):
        return None
    values = numpy_helper.to_array(found.tensor).reshape(-1)
    return int(values[0]) if values.size == 1 else None


def is_counted(body: GraphProto) -> bool:
    """Whether the body of a Loop never ends it: its condition is the one that it is given, or a constant."""
    if len(body.input) < 2 or not body.output:
        return False
    makers = {name: node for node in body.node for name in node.output}
    name = body.output[0].name
    while name in makers and is_op(makers[name], "Identity", "Cast") and makers[name].input:
        name = makers[name].input[0]
    return name == body.input[1].name or name not in makers or is_op(makers[name], "Constant")


def counted_once(uses: Sequence[Use]) -> list[Use]:
    """The same, where of the branches of an If, one of which runs, the dearer alone counts.

    Where both hold layers, those stay: what the node costs would not be a sum over layers any more once they
    change, since the other branch may become the dearer one.
    """
    found = list(uses)
    holders = {
        id(scope): scope
        for use in uses
        for scope in _around(use.scope)
        if scope.holder is not None and is_op(scope.holder, "If")
    }
    ifs: dict[tuple[int, int], list[Scope]] = {}
    for scope in holders.values():
        assert scope.outer is not None, "Bug: a branch of nothing"
        ifs.setdefault((scope.outer.number, id(scope.holder)), []).append(scope)
    for scopes in sorted(ifs.values(), key=lambda one: -one[0].number):  # inner ones first
        if len(scopes) > 1:
            _keep_dearer(found, scopes)
    return found


def _around(scope: Scope) -> list[Scope]:
    return [scope, *([] if scope.outer is None else _around(scope.outer))]


def _keep_dearer(uses: list[Use], branches: Sequence[Scope]) -> None:
    inside = [[i for i, use in enumerate(uses) if branch in _around(use.scope)] for branch in branches]
    inside = [places for places in inside if any(uses[i].macs != 0 for i in places)]
    if len(inside) < 2:
        return
    where = f"both branches of {branches[0].place} hold layers, and one runs"
    costs = [[uses[i].macs for i in places] for places in inside]
    known = [sum((cost for cost in one if cost is not None), Fraction()) for one in costs]
    dearest = known.index(max(known))
    for number, places in enumerate(inside):
        share, told = (1, "the dearer, which counts") if number == dearest else (0, "the other is dearer")
        for i in places:
            if any(None in one for one in costs):
                uses[i] = _changed(uses[i], f"{where}; which is dearer is not known", None)
            else:
                uses[i] = _changed(uses[i], f"{where}: {told}", share)


def _changed(use: Use, reason: str, share: int | None) -> Use:
    """A use that stays, and counts once, not at all, or has no known cost."""
    if share is None:
        return dataclasses.replace(use, input_size=None, product=None, reason=use.reason or reason)
    product = None if use.product is None else use.product * share
    return dataclasses.replace(use, runs=use.runs * share, product=product, reason=use.reason or reason)
