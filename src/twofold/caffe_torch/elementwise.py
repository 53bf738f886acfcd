"""Layers that combine blobs value by value: Eltwise, Scale, Bias, Axpy, Mul.

Source: BVLC Caffe 1.0, `eltwise_layer.cpp`, `scale_layer.cpp`, `bias_layer.cpp`; Axpy from
SENet's fork, Mul from Synopsys'.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from ..errors import ModelError
from ..formats.caffe.fields import Fields, axis_of
from ..formats.caffe.net import LayerSpec
from ..formats.caffe.shapes import Shape
from .layer import Layer, Operation, Setup, constant, filler_or
from .registry import register, register_stateless


@register_stateless("Eltwise")
def eltwise(spec: LayerSpec) -> Operation:
    """SUM with coefficients, PROD or MAX of blobs of one shape; or DIV, the first by each of the others.

    BVLC Caffe has no DIV; it is defined here as in OpenCV's Eltwise layer.
    """
    param = spec.fields.message("eltwise_param")
    operation, coefficients = param.text("operation"), param.numbers("coeff") or (1.0,) * len(spec.bottoms)
    if len(coefficients) != len(spec.bottoms):
        raise ModelError(
            f"layer {spec.name!r}: {len(coefficients)} coefficients for {len(spec.bottoms)} bottoms; "
            "give one each"
        )

    def combine(*bottoms: Tensor) -> Tensor:
        if any(bottom.shape != bottoms[0].shape for bottom in bottoms):
            raise ValueError("its inputs differ in shape")
        if operation == "PROD":
            return reduce(torch.mul, bottoms)
        if operation == "DIV":
            return reduce(torch.div, bottoms)
        if operation == "MAX":
            # Unlike torch.maximum, this sends the gradient of a tie to one side only, as Caffe does.
            return reduce(lambda a, b: torch.where(a > b, a, b), bottoms)
        terms = [b if c == 1 else b * c for b, c in zip(bottoms, coefficients, strict=True)]
        return reduce(torch.add, terms)

    return combine


@register_stateless("Axpy")
def axpy(spec: LayerSpec) -> Operation:
    """Sums a * x + y with one factor per image and channel: (N, C, 1, 1), (N, C, H, W), (N, C, H, W)."""
    return lambda a, x, y: a.reshape(*x.shape[:2], *(1,) * (x.dim() - 2)) * x + y


@register("Mul")
class Mul(Layer):
    """The product of two blobs, or of one and a learned factor.

    They are aligned at their last axes; a size of 1 fits any other.
    """

    factor: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.learned = len(setup.spec.bottoms) == 1
        if self.learned:
            shape = setup.spec.fields.message("mul_param").integers("mul_shape")
            # Its one blob has no filler; Caffe leaves it at 0 until weights are loaded.
            self.add_blob(setup, "factor", shape, constant(0.0))

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Multiply blobs of any shapes that fit."""
        return bottoms[0] * (self.factor if self.learned else bottoms[1])


def _operand_shape(param: Fields, bottom: Shape) -> Shape:
    """Shape of a learned factor: the axes from `axis` on, all or `num_axes` of them."""
    count = param.integer("num_axes")
    if count == 0:
        return ()
    if bottom is None:
        return None
    axis = axis_of(param.integer("axis"), len(bottom))
    return bottom[axis:] if count == -1 else bottom[axis : axis + count]


def _aligned(operand: Tensor, axis: int, dims: int) -> Tensor:
    """The operand with ones behind it, so that its first axis meets `axis` of a blob of `dims` axes."""
    first = axis_of(axis, dims) if operand.dim() else dims
    return operand.reshape((*operand.shape, *(1,) * (dims - first - operand.dim())))


@register("Scale")
class Scale(Layer):
    """x * factor (+ bias), with the factor learned or given as the second bottom."""

    scale: Tensor
    bias: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param = setup.spec.fields.message("scale_param")
        self.axis = param.integer("axis")
        self.learned, self.biased = len(setup.spec.bottoms) == 1, param.flag("bias_term")
        shape: Shape
        if self.learned:
            shape = _operand_shape(param, setup.bottoms[0])
            self.add_blob(setup, "scale", shape, filler_or(param, "filler", 1.0))
        else:
            shape = setup.bottoms[1]
        if self.biased:
            self.add_blob(setup, "bias", shape, filler_or(param, "bias_filler", 0.0))

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Scale a blob of any shape."""
        dims = bottoms[0].dim()
        result = bottoms[0] * _aligned(self.scale if self.learned else bottoms[1], self.axis, dims)
        return result + _aligned(self.bias, self.axis, dims) if self.biased else result


@register("Bias")
class Bias(Layer):
    """x + bias, with the bias learned or given as the second bottom."""

    bias: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param = setup.spec.fields.message("bias_param")
        self.axis, self.learned = param.integer("axis"), len(setup.spec.bottoms) == 1
        if self.learned:
            self.add_blob(
                setup, "bias", _operand_shape(param, setup.bottoms[0]), filler_or(param, "filler", 0.0)
            )

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Shift a blob of any shape."""
        return bottoms[0] + _aligned(self.bias if self.learned else bottoms[1], self.axis, bottoms[0].dim())
