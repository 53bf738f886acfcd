"""A module as a graph: as torch.fx traces it, else its leaves in order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from ..graph import NetGraph, Node, Shape
from .groups import Group
from .inputs import Arguments


def net_graph(module: nn.Module, groups: Iterable[Group], example_inputs: Any) -> NetGraph:
    """The calls that lie between a module's inputs and outputs.

    Args:
        module: a module that may be run, and put into evaluation.
        groups: its convolutions.
        example_inputs: what its forward gets, for the shapes; None where nothing is known.
    """
    owners = {name: group.name for group in groups for name in group.names}
    module.eval()
    try:
        traced = fx.symbolic_trace(module)
    except Exception:  # a forward that depends on values raises nearly anything
        return _in_order(module, owners)
    if example_inputs is not None:
        _add_shapes(traced, module, example_inputs)
    nodes: list[Node] = []
    at: dict[fx.Node, int] = {}
    for node in traced.graph.nodes:
        sources = tuple(dict.fromkeys(at[one] for one in node.all_input_nodes if one in at))
        if node.op in ("get_attr", "output") or (node.op != "placeholder" and not sources):
            continue
        at[node] = len(nodes)
        target = str(node.target) if node.op == "call_module" else node.name
        layer = owners.get(target) if node.op == "call_module" else None
        nodes.append(Node(target, _op_type(node, traced), sources, _shape(node), layer))
    return NetGraph(tuple(nodes))


def _add_shapes(traced: fx.GraphModule, module: nn.Module, example_inputs: Any) -> None:
    arguments = Arguments.of(module, example_inputs)
    given = {**dict(zip(arguments.names, arguments.positional, strict=True)), **arguments.named}
    holders = [str(node.target) for node in traced.graph.nodes if node.op == "placeholder"]
    if any(name not in given for name in holders):  # defaults were left out; the graph does without shapes
        return
    with torch.no_grad():
        ShapeProp(traced).propagate(*(given[name] for name in holders))


def _op_type(node: fx.Node, traced: fx.GraphModule) -> str:
    if node.op == "placeholder":
        return "Input"
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))).__name__
    return str(getattr(node.target, "__name__", node.target))


def _shape(node: fx.Node) -> Shape | None:
    found = node.meta.get("tensor_meta")
    shape = getattr(found, "shape", None)
    return None if shape is None else tuple(int(size) for size in shape)


def _in_order(module: nn.Module, owners: dict[str, str]) -> NetGraph:
    nodes = [Node("input", "Input")]
    for name, one in module.named_modules():
        if not any(True for _ in one.children()) and not isinstance(one, Tensor):
            class_name = type(one).__name__
            nodes.append(Node(name or class_name, class_name, (len(nodes) - 1,), None, owners.get(name)))
    return NetGraph(tuple(nodes), complete=False)
