"""Where an int8 model rounds, told so that a net of another framework can round there in training.

Such a net knows values by the layers that give them. What is rounded inside of a layer, or is a constant
other than the weight of a layer, cannot be rounded in training; the nodes around it stay in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from ..calibration.inputs import Inputs
from ..conv import Size
from ..errors import ModelError
from ..files.scratch import scratch_folder
from .qdq import LAYERS, ROUNDED_OUTPUT, SCALE, prepare, write_int8

#: What gives the values that it gets, in another shape or order.
_ARRANGING = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"})


@dataclass(frozen=True)
class QuantizedTensors:
    """What is rounded to 8 bits.

    Attributes:
        values: known value -> the known value whose range rounds it; itself, unless they share a scale.
        scales: what has a scale in the int8 model -> the known value that it is.
        integers: known value -> what it is in the int8 model, as integers; only where they have its order.
        weights: name of a layer's node -> axis along which its weight has scales; None for one scale.
        floats: names of nodes that stay in float32.
    """

    values: Mapping[str, str]
    scales: Mapping[str, str]
    integers: Mapping[str, str]
    weights: Mapping[str, int | None]
    floats: frozenset[str]


def find_places(
    proto: ModelProto, sample: Inputs, values: Collection[str], weights: Mapping[str, Size]
) -> QuantizedTensors:
    """See where ONNX Runtime's quantizer rounds what a net in training has, too.

    Args:
        proto: the model in float32.
        sample: inputs that it can be run on.
        values: those that training can round.
        weights: name of a layer's node -> shape of the weight that training can round.

    Raises:
        ModelError: ONNX Runtime cannot quantize it, or nothing is rounded that training can round.
    """
    known, ordered = _known(proto, values), _known(proto, values, _ARRANGING - {"Transpose"})
    floats: frozenset[str] = frozenset()
    with scratch_folder() as folder:
        plain, int8 = folder / "plain.onnx", folder / "int8.onnx"
        prepare(proto, plain)
        graph = _Graph(onnx.load(plain))
        while True:
            write_int8(plain, int8, sample, floats=floats)
            reading = _Reading(graph, onnx.load(int8), known, weights)
            if not reading.rejected:
                break
            assert not reading.rejected <= floats, f"Bug: rounded in float32: {reading.rejected}"
            floats |= reading.rejected
    if not reading.weights:
        raise ModelError("ONNX Runtime's quantizer rounds no layer of the net whose weight can be trained")
    integers = {ordered[one]: name for one, name in reading.integers.items() if one in ordered}
    return QuantizedTensors(reading.values, reading.scales, integers, reading.weights, floats)


def _known(
    proto: ModelProto, values: Collection[str], arranging: Collection[str] = _ARRANGING
) -> dict[str, str]:
    """The values of a model that are known ones, be it in another shape or order."""
    known = {name: name for name in values}
    nodes = [node for node in proto.graph.node if node.op_type in arranging]
    for node in nodes:
        before, after = node.input[0], node.output[0]
        if before in known and (node.op_type == "Identity" or after not in known):
            # A dropout is an identity here alone: in training the values behind it are others.
            known[after] = known[before]
    for node in reversed(nodes):
        if node.output[0] in known:
            known.setdefault(node.input[0], known[node.output[0]])
    return known


class _Graph:
    """Who makes and who reads a value."""

    def __init__(self, proto: ModelProto) -> None:
        self._around: dict[str, set[str]] = {}
        for node in proto.graph.node:
            for value in (*node.input, *node.output):
                self._around.setdefault(value, set()).add(node.name)

    def around(self, value: str) -> set[str]:
        """Names of the nodes that make or read a value."""
        return self._around.get(value, set())


class _Reading:
    """What an int8 model rounds.

    Attributes:
        values: see `QuantizedTensors.values`.
        scales: see `QuantizedTensors.scales`.
        integers: value of the model in float32 -> what it is as integers.
        weights: see `QuantizedTensors.weights`.
        rejected: names of nodes around what training cannot round.
    """

    def __init__(
        self, plain: _Graph, int8: ModelProto, known: Mapping[str, str], weights: Mapping[str, Size]
    ) -> None:
        self._plain, self._known, self._shapes = plain, known, weights
        self._stored = {one.name: one for one in int8.graph.initializer}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in int8.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self.values: dict[str, str] = {}
        self.scales: dict[str, str] = {}
        self.integers: dict[str, str] = {}
        self.weights: dict[str, int | None] = {}
        self.rejected: set[str] = set()
        for node in int8.graph.node:
            if node.op_type == "QuantizeLinear":
                self._value(node)
            elif node.op_type == "DequantizeLinear" and node.input[0] in self._stored:
                self._constant(node, self._stored[node.input[0]])

    def _value(self, node: NodeProto) -> None:
        value, scale = node.input[0].removesuffix(ROUNDED_OUTPUT), node.input[1].removesuffix(SCALE)
        for one in (value, scale):
            if one not in self._known:
                self.rejected |= self._plain.around(one)
                return
        known = self._known[value]
        self.scales[scale] = self._known[scale]
        self.integers[value] = node.output[0]
        if self.values.setdefault(known, self._known[scale]) != self._known[scale]:
            self.rejected |= self._plain.around(value)

    def _constant(self, node: NodeProto, stored: TensorProto) -> None:
        # A bias has 32 bits: nothing is lost.
        if stored.data_type == TensorProto.INT32:
            return
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        scales = self._stored[node.input[1]].dims
        for reader in self._readers.get(node.output[0], ()):
            is_weight = reader.op_type in LAYERS and list(reader.input).index(node.output[0]) == 1
            if is_weight and self._shapes.get(reader.name) == tuple(stored.dims):
                self.weights[reader.name] = axis if scales else None
            else:
                self.rejected.add(reader.name)


def scale_names(int8: ModelProto) -> Iterator[str]:
    """The values that have a scale in an int8 model."""
    for node in int8.graph.node:
        if node.op_type == "QuantizeLinear":
            yield node.input[1].removesuffix(SCALE)
