"""An ONNX model's main graph, without what only makes constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnx import ModelProto

from ...conv import Size
from ..graph import NetGraph, Node
from .groups import Group
from .shapes import fed_inputs, value_shapes


def net_graph(model: ModelProto, groups: Iterable[Group], inputs: Mapping[str, Size], path: str) -> NetGraph:
    """The main graph; its nodes stand in the file's order, which ONNX wants sorted."""
    owners = {use.position: group.name for group in groups for use in group.uses if use.scope.number == 0}
    shapes = value_shapes(model, inputs, path)
    nodes: list[Node] = []
    makers: dict[str, int] = {}
    for value in fed_inputs(model):
        makers[value.name] = len(nodes)
        nodes.append(Node(value.name, "Input", (), shapes.get((0, value.name))))
    for position, node in enumerate(model.graph.node):
        sources = tuple(dict.fromkeys(makers[name] for name in node.input if name in makers))
        if not sources:  # a constant, or made of constants alone
            continue
        makers.update({name: len(nodes) for name in node.output if name})
        shape = shapes.get((0, node.output[0])) if node.output else None
        name = node.name or (node.output[0] if node.output else node.op_type)
        nodes.append(Node(name, node.op_type, sources, shape, owners.get(position)))
    return NetGraph(tuple(nodes))
