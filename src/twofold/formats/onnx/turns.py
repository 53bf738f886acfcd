"""How often a graph inside of a node runs for each time that the node does."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from onnx import GraphProto, NodeProto, numpy_helper

from .attributes import integer, integers
from .graphs import Constant, Graphs, Scope, is_op
from .shapes import ValueShapes

#: Version of ONNX's operators from which Scan has no batch axis.
_PLAIN_SCAN = 9


def turns(graphs: Graphs, shapes: ValueShapes, scope: Scope) -> int | None:
    """How often a graph runs for a run of the model; None where that depends on values.

    A branch whose condition is not constant counts as if it ran; see `doubtful`.
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


def doubtful(graphs: Graphs, scopes: Iterable[Scope]) -> list[str]:
    """The If nodes of which both branches are among some graphs, in words, where values say which runs."""
    branches: dict[tuple[int, str], set[str]] = {}
    for scope in scopes:
        inner: Scope | None = scope
        while inner is not None and inner.outer is not None:
            if inner.holder is not None and is_op(inner.holder, "If") and _constant(graphs, inner, 0) is None:
                branches.setdefault((inner.outer.number, inner.place), set()).add(inner.role)
            inner = inner.outer
    return [place for (_, place), roles in branches.items() if len(roles) > 1]
