"""Batch normalisation by the batch's own mean and variance, as a change of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ....formats.onnx.attributes import attribute
from ....formats.onnx.graphs import is_op, opset_of


def with_batch_statistics(model: ModelProto) -> ModelProto:
    """A copy whose BatchNormalization nodes in the main graph normalise by the batch's own moments."""
    made = ModelProto()
    made.CopyFrom(model)
    opset = opset_of(made)
    nodes: list[NodeProto] = []
    for node in made.graph.node:
        nodes += _normalised(node, opset) if is_op(node, "BatchNormalization") else [node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _normalised(node: NodeProto, opset: int) -> Iterator[NodeProto]:
    """Y = (x - mean) / sqrt(variance + epsilon) * scale + bias, over all axes but the channels.

    The axes are found by making the input (N, C, all positions) and back, so that the rank need not be known.
    """
    x, scale, bias, y = node.input[0], node.input[1], node.input[2], node.output[0]
    found = attribute(node, "epsilon")
    epsilon = 1e-5 if found is None else found.f

    def name(part: str) -> str:
        return f"{y} twofold {part}"

    def constant(part: str, values: list[int] | float) -> NodeProto:
        dtype = np.int64 if isinstance(values, list) else np.float32
        tensor: TensorProto = numpy_helper.from_array(np.array(values, dtype))
        return helper.make_node("Constant", [], [name(part)], value=tensor)

    def make(op_type: str, inputs: list[str], part: str, **attributes: Any) -> NodeProto:
        return helper.make_node(op_type, inputs, [name(part)], **attributes)

    def mean(source: str, part: str) -> NodeProto:
        if opset >= 18:
            return make("ReduceMean", [source, name("axes")], part, keepdims=1)
        return make("ReduceMean", [source], part, axes=[0, 2], keepdims=1)

    yield constant("flat", [0, 0, -1])
    yield constant("column", [1, -1, 1])
    yield constant("axes", [0, 2])
    yield constant("epsilon", epsilon)
    yield (
        make("CastLike", [name("epsilon"), scale], "eps")
        if opset >= 15
        else make("Identity", [name("epsilon")], "eps")
    )
    yield make("Shape", [x], "shape")
    yield make("Reshape", [x, name("flat")], "images")
    yield mean(name("images"), "mean")
    yield make("Sub", [name("images"), name("mean")], "centred")
    yield make("Mul", [name("centred"), name("centred")], "squares")
    yield mean(name("squares"), "variance")
    yield make("Add", [name("variance"), name("eps")], "raised")
    yield make("Sqrt", [name("raised")], "deviation")
    yield make("Div", [name("centred"), name("deviation")], "standard")
    yield make("Reshape", [scale, name("column")], "scale")
    yield make("Reshape", [bias, name("column")], "bias")
    yield make("Mul", [name("standard"), name("scale")], "scaled")
    yield make("Add", [name("scaled"), name("bias")], "shifted")
    yield helper.make_node("Reshape", [name("shifted"), name("shape")], [y])
