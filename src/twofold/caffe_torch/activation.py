"""Layers that map every value by itself.

Source: the layers' `.cpp` files in BVLC Caffe 1.0; ReLU6 as in the SSD and MobileNet forks, HardSwish as in
Synopsys'.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ..formats.caffe.net import LayerSpec
from .layer import Layer, Operation, Setup, filler_or
from .registry import register, register_stateless


@register_stateless("ReLU")
def relu(spec: LayerSpec) -> Operation:
    """max(x, 0) + slope * min(x, 0)."""
    slope = spec.fields.message("relu_param").number("negative_slope")
    return partial(functional.leaky_relu, negative_slope=slope) if slope else functional.relu


@register_stateless("ReLU6")
def relu6(spec: LayerSpec) -> Operation:
    """min(max(x, 0), 6)."""
    return functional.relu6


@register_stateless("HardSwish")
def hard_swish(spec: LayerSpec) -> Operation:
    """The product x * min(max(x + 3, 0), 6) / 6."""
    return functional.hardswish


@register_stateless("ELU")
def elu(spec: LayerSpec) -> Operation:
    """Linear above 0, alpha * (exp(x) - 1) below."""
    return partial(functional.elu, alpha=spec.fields.message("elu_param").number("alpha"))


@register_stateless("Sigmoid")
def sigmoid(spec: LayerSpec) -> Operation:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid


@register_stateless("TanH")
def tanh(spec: LayerSpec) -> Operation:
    """The hyperbolic tangent."""
    return torch.tanh


@register_stateless("AbsVal")
def absval(spec: LayerSpec) -> Operation:
    """|x|."""
    return torch.abs


@register_stateless("BNLL")
def bnll(spec: LayerSpec) -> Operation:
    """log(1 + exp(x)); torch's own switch to x above 20 is off by less than 3e-9."""
    return functional.softplus


@register_stateless("Swish")
def swish(spec: LayerSpec) -> Operation:
    """The product x * sigmoid(beta * x)."""
    beta = spec.fields.message("swish_param").number("beta")
    return lambda x: x * torch.sigmoid(beta * x)


@register_stateless("Clip")
def clip(spec: LayerSpec) -> Operation:
    """min(max(x, low), high)."""
    param = spec.fields.message("clip_param")
    return partial(torch.clamp, min=param.number("min"), max=param.number("max"))


@register_stateless("Threshold")
def threshold(spec: LayerSpec) -> Operation:
    """1 where x is above the threshold, else 0."""
    limit = spec.fields.message("threshold_param").number("threshold")
    return lambda x: (x > limit).to(x.dtype)


@register_stateless("Power")
def power(spec: LayerSpec) -> Operation:
    """(shift + scale * x) ^ power; a constant where scale or power is 0, whatever x is."""
    param = spec.fields.message("power_param")
    exponent, scale, shift = (param.number(name) for name in ("power", "scale", "shift"))

    def apply(x: Tensor) -> Tensor:
        if scale * exponent == 0:
            return torch.full_like(x, 1.0 if exponent == 0 else shift**exponent)
        inner = x * scale if scale != 1 else x
        inner = inner + shift if shift != 0 else inner
        return inner if exponent == 1 else inner.pow(exponent)

    return apply


@register_stateless("Exp")
def exp(spec: LayerSpec) -> Operation:
    """Powers base^(shift + scale * x); base -1 is e."""
    param = spec.fields.message("exp_param")
    base = param.number("base")
    log_base = 1.0 if base == -1 else math.log(base)
    inner, outer = log_base * param.number("scale"), math.exp(log_base * param.number("shift"))
    return lambda x: torch.exp(x * inner) * outer


@register_stateless("Log")
def log(spec: LayerSpec) -> Operation:
    """Logarithm of shift + scale * x to the base; base -1 is e."""
    param = spec.fields.message("log_param")
    base, scale, shift = (param.number(name) for name in ("base", "scale", "shift"))
    log_base = 1.0 if base == -1 else math.log(base)
    return lambda x: torch.log(x * scale + shift) / log_base


@register("PReLU")
class PReLU(Layer):
    """max(x, 0) + slope * min(x, 0) with a learned slope, one per channel (axis 1) or one for all."""

    weight: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param, bottom = setup.spec.fields.message("prelu_param"), setup.bottoms[0]
        shape = () if param.flag("channel_shared") else None if bottom is None else (bottom[1],)
        self.add_blob(setup, "weight", shape, filler_or(param, "filler", 0.25))

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Apply to (N, C, ...)."""
        return functional.prelu(bottoms[0], self.weight.reshape(-1))


@register("Dropout")
class Dropout(Layer):
    """In training, values are dropped with probability `dropout_ratio` and the others scaled up."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """The identity in phase TEST."""
        ratio = self.spec.fields.message("dropout_param").number("dropout_ratio")
        return functional.dropout(bottoms[0], ratio, self.training)
