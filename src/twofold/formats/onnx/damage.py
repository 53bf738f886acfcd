"""What protobuf lets pass though it cannot be: names that are no text, types and sizes that do not exist."""

from __future__ import annotations

import math
from collections.abc import Iterator

from onnx import GraphProto, TensorProto, ValueInfoProto

_TYPES = frozenset(TensorProto.DataType.values())
#: Values of a tensor that any memory could hold.
_MOST_VALUES = 2**48


def damage(graph: GraphProto) -> str:
    """What is wrong with a graph, or with one inside of it; "" where nothing is."""
    return next(_problems(graph), "")


def _problems(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        names = (node.name, node.op_type, node.domain, *node.input, *node.output)
        if not all(isinstance(name, str) for name in names):  # protobuf gives bytes where it is not UTF-8
            yield f"the name of a node, or of what it reads, is not UTF-8: {names!r}"
        for attribute in node.attribute:
            if not isinstance(attribute.name, str):
                yield f"the name of an attribute is not UTF-8: {attribute.name!r}"
            if attribute.HasField("t"):
                yield from _tensor(attribute.t)
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _problems(inner)
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield from _value(value)
    for tensor in graph.initializer:
        yield from _tensor(tensor)


def _value(value: ValueInfoProto) -> Iterator[str]:
    tensor_type = value.type.tensor_type
    texts = (value.name, *(axis.dim_param for axis in tensor_type.shape.dim))
    if not all(isinstance(text, str) for text in texts):
        yield f"the name of a value or of its axis is not UTF-8: {texts!r}"
    if tensor_type.elem_type not in _TYPES:
        yield f"the value {value.name!r} is of type {tensor_type.elem_type}, which ONNX does not have"


def _tensor(tensor: TensorProto) -> Iterator[str]:
    texts = (tensor.name, *(text for entry in tensor.external_data for text in (entry.key, entry.value)))
    if not all(isinstance(text, str) for text in texts):
        yield f"the name or place of a tensor is not UTF-8: {texts!r}"
    if tensor.data_type not in _TYPES or tensor.data_type == TensorProto.UNDEFINED:
        yield f"the tensor {tensor.name!r} is of type {tensor.data_type}, which ONNX does not have"
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > _MOST_VALUES:
        yield f"the tensor {tensor.name!r} has the shape {list(tensor.dims)}"
