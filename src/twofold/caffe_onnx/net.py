"""From a Caffe net to an ONNX model: which layers, in which order, under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from ..caffe_torch import CaffeNet, Layer
from ..caffe_torch.schedule import schedule
from ..conv import Size
from ..errors import ModelError
from ..formats.caffe.net import LayerSpec
from .registry import EMITTERS, LEFT_OUT
from .site import Graph, Site, Value

#: The oldest with all operators that are used here.
OPSET = 17
#: Of opset 17; a later one would shut out older runtimes for nothing.
_IR_VERSION = 8
BATCH = "batch"

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Traced:
    """One run of a net.

    Attributes:
        inputs: what it was given.
        outputs: what it gave.
        shapes: by position of each layer that ran: shapes of its bottoms, and of its tops.
    """

    inputs: Arrays
    outputs: Arrays
    shapes: Mapping[int, tuple[tuple[Size, ...], tuple[Size, ...]]]


def graph_outputs(net: CaffeNet) -> tuple[tuple[str, ...], tuple[LayerSpec, ...]]:
    """The blobs that a graph of the net gives, and the layers that it leaves out.

    Where a layer is left out, what it is given stands for what it gives.

    Raises:
        ModelError: nothing is left.
    """
    specs = net.definition.layers
    computed = {top for spec in specs if spec.bottoms or top_is_constant(spec) for top in spec.tops}
    left: dict[str, LayerSpec] = {spec.name: spec for spec in specs if spec.type in LEFT_OUT}
    lost = {top for spec in left.values() for top in spec.tops}
    wanted = [name for name in net.outputs if name not in lost]
    wanted += [name for spec in left.values() for name in spec.bottoms if name in computed - lost]
    for spec in specs:
        if spec.name not in left and not lost.isdisjoint(spec.bottoms):
            blobs = ", ".join(sorted(lost.intersection(spec.bottoms)))
            raise ModelError(
                f"{spec.label} reads {blobs}, which is no part of an ONNX graph; take the layer out of the "
                "definition"
            )
    outputs = tuple(dict.fromkeys(wanted))
    if not outputs:
        raise ModelError(f"net {net.definition.name!r} computes nothing that could be exported")
    return outputs, tuple(left.values())


def top_is_constant(spec: LayerSpec) -> bool:
    """Whether a layer without bottoms computes its tops."""
    return spec.type in ("DummyData", "Parameter")


def trace(net: CaffeNet, inputs: Arrays, outputs: Sequence[str]) -> Traced:
    """Run a net and note the shapes of all blobs.

    Raises:
        InputError: an input is missing.
        ModelError: a layer cannot be run.
    """
    shapes = {}
    blobs: Mapping[str, torch.Tensor] = {}
    feed = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.no_grad():
        for step in net.walk(feed, keep=outputs):
            tensors = step.bottoms, step.tops
            shapes[step.index] = tuple(tuple(map(_shape, group)) for group in tensors)
            blobs = step.blobs
    return Traced(inputs, {name: blobs[name].numpy() for name in outputs}, shapes)  # type: ignore[arg-type]


def _shape(tensor: torch.Tensor) -> Size:
    return tuple(tensor.shape)


def emit_net(net: CaffeNet, traced: Traced, other: Traced | None) -> ModelProto:
    """Write a net as an ONNX model.

    Args:
        net: in its test phase.
        traced: a run of it.
        other: a run with another batch, where the batch is to stay open; None fixes it.

    Raises:
        ModelError: a layer that cannot be exported.
    """
    specs, names = net.definition.layers, value_names(net, traced)
    graph = Graph(taken={name for of in names.values() for name in of} | set(traced.inputs))
    values: dict[str, Value] = {name: name for name in traced.inputs}
    for index in names:
        module = net.layers[index]
        assert isinstance(module, Layer)
        bottoms, tops = traced.shapes[index]
        site = Site(graph, module, tuple(values[name] for name in specs[index].bottoms), bottoms, tops)
        found = EMITTERS.of(specs[index])(site)
        site.finish((found,) if isinstance(found, str) else found, names[index])
        values.update(zip(specs[index].tops, names[index], strict=True))
    inputs = [_info(name, name, traced.inputs, other.inputs if other else None) for name in traced.inputs]
    outputs = [
        _info(name, values[name], traced.outputs, other.outputs if other else None) for name in traced.outputs
    ]
    proto = helper.make_graph(
        graph.nodes, net.definition.name or "net", inputs, outputs, list(graph.constants.values())
    )
    return helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="twofold"
    )  # fmt: skip


def value_names(net: CaffeNet, traced: Traced) -> dict[int, tuple[str, ...]]:
    """Names of every layer's tops in the graph, by the layer's position, in the order in which they run.

    The last value of a blob has its name. Those before it, which Caffe replaces in place, have the layer's
    behind it, and so has what replaces an input.
    """
    specs, inputs = net.definition.layers, traced.inputs
    scheduled = schedule(specs, 0, len(specs), traced.outputs)
    steps = [one.index for one in scheduled if one.index in traced.shapes]
    last = {name: index for index in steps for name in specs[index].tops}
    taken = {*last, *inputs}
    names: dict[int, tuple[str, ...]] = {}
    for index in steps:
        found = []
        for name in specs[index].tops:
            value = name
            if last[name] != index or name in inputs:
                value = f"{name}/{specs[index].name}"
                while value in taken:
                    value += "_"
            taken.add(value)
            found.append(value)
        names[index] = tuple(found)
    return names


def _info(blob: str, value: Value, arrays: Arrays, others: Arrays | None) -> ValueInfoProto:
    shape: list[int | str | None] = list(arrays[blob].shape)
    for axis, size in enumerate(shape if others is None else others[blob].shape):
        if size != shape[axis]:
            shape[axis] = BATCH if axis == 0 else None
    return helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)
