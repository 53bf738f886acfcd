"""An int8 model in torch, with torchao's fake quantization in the place of the real one.

What ONNX Runtime's quantizer wrote says where values are rounded. Weights are rounded to the range that they
have at the moment, per output channel; the scales of activations are trained like weights, their zero points
stay.

Source: Esser et al., "Learned step size quantization", ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from onnx import ModelProto, NodeProto, TensorProto
from onnx.numpy_helper import from_array as from_numpy
from onnx.numpy_helper import to_array
from torch import Tensor

from ..errors import MissingExtraError, ModelError, option
from ..onnx_torch import OnnxNet
from ..onnx_torch.registry import Operation, from_array
from ..progress import quiet
from .parity import Followed
from .qdq import DEQUANTIZED, QUANTIZED, SCALE, Ranges


def torchao() -> Any:
    """The part of torchao that quantizes in training.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        with quiet():  # it logs what it has no GPU for
            from torchao.quantization import pt2e  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("quantization in training", "torchao", "qat") from error
    return pt2e


def weight_quantizer(axis: int | None) -> Any:
    """Rounds a weight to 8 bits: symmetrically to its own range, per channel of an axis or as a whole."""
    ao = torchao()
    observer, scheme = ao.MovingAverageMinMaxObserver, torch.per_tensor_symmetric
    more = {}
    if axis is not None:
        observer, scheme = ao.MovingAveragePerChannelMinMaxObserver, torch.per_channel_symmetric
        more["ch_axis"] = axis
    # An averaging constant of 1: the range is that of now.
    return ao.FakeQuantize(
        observer, -127, 127, dtype=torch.qint8, qscheme=scheme, averaging_constant=1.0, **more
    )


def range_quantizer(scale: float, zero_point: int) -> Any:
    """Rounds a value to 8 bits with a scale that can be trained."""
    ao = torchao()
    made = ao.LearnableFakeQuantize(
        ao.FixedQParamsObserver, -128, 127, use_grad_scaling=True, scale=scale, zero_point=zero_point,
        dtype=torch.qint8, qscheme=torch.per_tensor_affine,
    )  # fmt: skip
    made(torch.zeros(1))  # takes them over
    made.enable_range_learning()
    made.zero_point.requires_grad_(False)
    return made


def range_observer() -> Any:
    """Takes down the smallest and the largest number of all values that it is called with."""
    return torchao().MinMaxObserver(
        dtype=torch.qint8, qscheme=torch.per_tensor_affine, quant_min=-128, quant_max=127
    )


class FakeInt8(Followed):
    """An int8 model with weights and ranges in float, to be trained.

    Attributes:
        weights: weights and biases of the layers in int8, by the names that they have in the float model.
        ranges: what rounds the activations that the outputs depend on, by value.
        values: names of the wanted values -> those in the int8 model.
    """

    def __init__(
        self, plain: ModelProto, int8: ModelProto, outputs: Sequence[str], device: torch.device
    ) -> None:
        """Take over what a quantizer wrote.

        Args:
            plain: the model in float32 that was quantized.
            int8: what it became.
            outputs: values of the float model that are wanted.
            device: where it runs.

        Raises:
            ModelError: a value is none of the int8 model's.
            UnsupportedError: some operators are not known in torch.
            MissingExtraError: torchao is not installed.
        """
        self._device = device
        self._floats = {one.name: one for one in plain.graph.initializer}
        self._constants = {one.name: one for one in int8.graph.initializer}
        self.values = _rounded(int8, outputs)
        self._written = {
            node.input[1].removesuffix(SCALE): self._range(node)
            for node in int8.graph.node
            if node.op_type == "QuantizeLinear"
        }
        self.weights: dict[str, Tensor] = {}
        self.ranges: dict[str, Any] = {}
        nodes = {"QuantizeLinear": self._quantize, "DequantizeLinear": self._dequantize}
        self._net = OnnxNet(int8, tuple(self.values.values()), make=nodes)
        self._net.constants |= {name: one.to(device) for name, one in self._net.constants.items()}

    def _quantize(self, node: NodeProto) -> Operation:
        # Values that share a scale share what rounds them.
        name = node.input[1].removesuffix(SCALE)
        if name not in self.ranges:
            self.ranges[name] = range_quantizer(*self._range(node)).to(self._device)
        quantizer = self.ranges[name]

        def rounded(x: Tensor, *_: Tensor) -> Tensor:
            quantizer.calculate_qparams()  # keeps the scale above zero
            result: Tensor = quantizer(x)
            if self._agreement is None:
                return result
            return self._agreement.follow(node.output[0], x, result, range_of(quantizer))

        return rounded

    def _range(self, node: NodeProto) -> tuple[float, int]:
        scale, zero = (to_array(self._constants[one]) for one in node.input[1:3])
        return float(scale), int(zero)

    def _dequantize(self, node: NodeProto) -> Operation:
        stored = self._constants.get(node.input[0])
        if stored is None:
            return lambda x, *_: x  # what `_quantize` gave is in float already
        name = node.input[0].removesuffix(QUANTIZED)
        weight = from_array(to_array(self._floats[name])).to(self._device).requires_grad_(True)
        self.weights[name] = weight
        # A bias has 32 bits: nothing is lost.
        if stored.data_type == TensorProto.INT32:
            return lambda *_: weight
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        scales = self._constants[node.input[1]].dims
        quantizer = weight_quantizer(axis if scales else None).to(self._device)
        return lambda *_: quantizer(weight)

    def parameters(self) -> list[Tensor]:
        """What can be trained: weights, biases and scales."""
        return [*self.weights.values(), *(one.scale for one in self.ranges.values())]

    def __call__(self, feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs, by the names of the float model."""
        found = self._net(feed)
        return {name: found[value] for name, value in self.values.items()}

    def trained(self, plain: ModelProto) -> tuple[ModelProto, Ranges]:
        """The float model with the weights as they are now, and all ranges."""
        proto = ModelProto()
        proto.CopyFrom(plain)
        for one in proto.graph.initializer:
            if one.name in self.weights:
                one.CopyFrom(from_numpy(self.weights[one.name].detach().cpu().numpy(), one.name))
        return proto, {**self._written, **{name: range_of(one) for name, one in self.ranges.items()}}


def range_of(quantizer: Any) -> tuple[float, int]:
    """Scale and zero point of a value."""
    scale, zero = quantizer.calculate_qparams()
    return float(scale), int(zero)


def _rounded(int8: ModelProto, names: Sequence[str]) -> dict[str, str]:
    """What stands in an int8 model for values of the float model.

    Raises:
        ModelError: a value is not there.
    """
    given = {name for node in int8.graph.node for name in node.output}
    found = {}
    for name in names:
        value = next((one for one in (name + DEQUANTIZED, name) if one in given), None)
        if value is None:
            raise ModelError(
                f"the int8 model computes no {name!r}: ONNX Runtime joins what gives it with its neighbours, "
                f"or the two models do not belong together; protect another value ({option('targets')})"
            )
        found[name] = value
    return found
