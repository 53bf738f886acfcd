"""What is timed: a stack of convolutions on an input of one size, and small models of it.

A fully connected layer is timed as the convolution with one tap that it is.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conv import ConvGeometry, ConvLayer, Size
from ..formats.caffe.caffemodel import NewLayer, create_weights
from ..formats.caffe.layer_types import types
from ..text import ranks_text, shape_text

Weights = list[tuple[NDArray[np.float32], NDArray[np.float32] | None]]


@dataclass(frozen=True)
class Stack:
    """Convolutions one behind the other; a layer as it is, or what would replace it.

    Attributes:
        chain: their geometries; the last has a bias.
        size: spatial size of the input.
        batch: images per run.
    """

    chain: tuple[ConvGeometry, ...]
    size: Size
    batch: int = 1

    @property
    def timed(self) -> tuple[ConvGeometry, ...]:
        """What runtimes are given: of a fully connected layer the convolution with one tap that it is."""
        return tuple(g if g.semantics.spatial else replace(g, layer_type="convolution") for g in self.chain)

    @property
    def key(self) -> str:
        """The stack in words, by which tables know it; equal stacks have equal keys."""
        shapes = " | ".join(shape_text(geometry, pads=True) for geometry in self.chain)
        return f"{self.batch} x {ranks_text(self.size)}: {shapes}"

    @property
    def input_shape(self) -> Size:
        """Shape of the input: (N, C, *size)."""
        return (self.batch, self.chain[0].c_in, *self.size)

    def input(self) -> NDArray[np.float32]:
        """Seeded values for the input."""
        return np.random.default_rng(0).standard_normal(self.input_shape, np.float32)

    def weights(self) -> Weights:
        """Seeded weights that keep the size of values, with the bias of the last."""
        rng = np.random.default_rng(0)
        made: Weights = []
        for geometry in self.chain:
            fan_in = geometry.params // geometry.c_out
            weight = rng.standard_normal(geometry.weight_shape, np.float32) / np.float32(np.sqrt(fan_in))
            made.append((weight, None))
        made[-1] = (made[-1][0], rng.standard_normal(self.chain[-1].c_out, np.float32))
        return made


def uses(layer: ConvLayer, chain: Sequence[ConvGeometry], batch: int) -> tuple[Stack, ...]:
    """The stacks that run where `chain` stands in a layer's place: one per use of its weight."""
    return tuple(Stack(tuple(chain), size, max(round(batch * runs), 1)) for size, runs in layer.uses)


def onnx_bytes(stack: Stack) -> bytes:
    """A stack as an ONNX model with the input `x` and the output `y`."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - an extra

    from ..formats.onnx.layer_types import plain  # noqa: PLC0415 - the same

    nodes, constants, value = [], [], "x"
    size = stack.size
    for i, (geometry, (weight, bias)) in enumerate(zip(stack.timed, stack.weights(), strict=True)):
        adapter = plain(geometry.layer_type)
        named = {
            f"w{i}": geometry.semantics.stored(weight, geometry),
            **({} if bias is None else {f"b{i}": bias}),
        }
        constants += [numpy_helper.from_array(array, name) for name, array in named.items()]
        out = "y" if i == len(stack.chain) - 1 else f"x{i}"
        domain, type_ = adapter.operators[0]
        attributes: dict[str, Any] = {"domain": domain or None, **adapter.attributes(geometry)}
        nodes.append(helper.make_node(type_, [value, *named], [out], f"conv{i}", **attributes))
        value, size = out, geometry.output_size(size)
    ends = {"x": stack.input_shape, "y": (stack.batch, stack.chain[-1].c_out, *size)}
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in ends.items())
    graph = helper.make_graph(nodes, "stack", [x], [y], constants)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="twofold")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def caffe_rejection(stack: Stack) -> str | None:
    """Why Caffe has no such stack, in words for users; None where it has."""
    missing = [geometry.semantics.words for geometry in stack.timed if not types(geometry.layer_type)]
    if missing:
        return f"Caffe has no layer that is {missing[0]}"
    if any(before != after for geometry in stack.chain for before, after in geometry.pad):
        return "Caffe pads both sides alike"
    if any(map(any, (geometry.output_padding for geometry in stack.chain))):
        return "Caffe has no output padding"
    return None


def caffe_bytes(stack: Stack) -> tuple[bytes, bytes]:
    """A stack as a prototxt and a caffemodel, with the input `x` and the output `y`."""
    dims = " ".join(f"dim: {n}" for n in stack.input_shape)
    text = [f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}']
    layers, value = [], "x"
    for i, (geometry, (weight, bias)) in enumerate(zip(stack.timed, stack.weights(), strict=True)):
        top = "y" if i == len(stack.chain) - 1 else f"x{i}"
        text.append(_caffe_layer(f"conv{i}", value, top, geometry, bias is not None))
        stored = geometry.semantics.stored(weight, geometry)
        blobs = (stored,) if bias is None else (stored, bias)
        layers.append(NewLayer(f"conv{i}", _caffe_type(geometry), blobs))
        value = top
    stream = io.BytesIO()
    create_weights(layers, "stack").write(stream)
    return "\n".join((*text, "")).encode(), stream.getvalue()


def _caffe_type(geometry: ConvGeometry) -> str:
    return types(geometry.layer_type)[0]


def _caffe_layer(name: str, bottom: str, top: str, geometry: ConvGeometry, bias: bool) -> str:
    repeated = {
        "kernel_size": geometry.kernel, "stride": geometry.stride, "dilation": geometry.dilation,
        "pad": tuple(before for before, _ in geometry.pad),
    }  # fmt: skip
    if len(geometry.kernel) == 2:  # kernel_size twice is read by Caffe alone, _h and _w by all
        pairs = {"kernel": geometry.kernel, "stride": geometry.stride, "pad": repeated["pad"]}
        fields = [f"{key}_{axis}: {n}" for key, of in pairs.items() for axis, n in zip("hw", of, strict=True)]
        fields += [f"dilation: {n}" for n in geometry.dilation]
    else:
        fields = [f"{key}: {n}" for key, sizes in repeated.items() for n in sizes]
    fields += [
        f"num_output: {geometry.c_out}",
        f"group: {geometry.groups}",
        f"bias_term: {str(bias).lower()}",
    ]
    return (
        f'layer {{ name: "{name}" type: "{_caffe_type(geometry)}" bottom: "{bottom}" top: "{top}"\n'
        f"  convolution_param {{ {' '.join(fields)} }} }}"
    )
