"""Layers inside a model's local functions: they stay, and count with what they cost."""

from __future__ import annotations

from collections.abc import Mapping

import onnx.inliner
from onnx import ModelProto, NodeProto

from ...conv import Size, Skipped
from .graphs import Graphs, held
from .groups import find_groups, free_name, macs_of
from .layer_types import adapter_of
from .tensors import Files

#: Key of the metadata that says of a node in a function which one it is.
_MARK = "twofold.function"


def in_functions(model: ModelProto, inputs: Mapping[str, Size], path: str, files: Files) -> list[Skipped]:
    """Layers in functions, each time that a function is called: seen in a copy with all functions inlined."""
    if not any(adapter_of(node) for function in model.functions for node in _all(list(function.node))):
        return []
    marked = ModelProto()
    marked.CopyFrom(model)
    for function in marked.functions:
        for node in _all(list(function.node)):
            node.metadata_props.add(key=_MARK, value=f"{function.name}/{node.name or node.output[0]}")
    found: dict[str, Skipped] = {}
    for group in find_groups(Graphs(onnx.inliner.inline_local_functions(marked), files), inputs, path):
        for use in group.uses:
            place = next((one.value for one in use.node.metadata_props if one.key == _MARK), None)
            if place is not None:
                function = place.partition("/")[0]
                reason = f"inside the function {function!r}; inline it first, see onnx.inliner"
                name = free_name(place, found)
                params = 0 if use.geometry is None else use.geometry.params
                found[name] = Skipped(name, reason, use.geometry, macs_of([use]), params)
    return list(found.values())


def _all(nodes: list[NodeProto]) -> list[NodeProto]:
    """Nodes, and those in their branches and bodies."""
    inner = [node for node in nodes for graph in held(node) for node in _all(list(graph.node))]
    return nodes + inner
