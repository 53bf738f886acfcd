"""Layers that map every value by itself; see `caffe_torch.activation` for what they compute."""

from __future__ import annotations

import math
from functools import partial

from .registry import register
from .site import Site, Value


def _plain(operator: str, site: Site) -> Value:
    return site.node(operator, site.bottoms[0])


for _type, _operator in {
    "Sigmoid": "Sigmoid",
    "TanH": "Tanh",
    "AbsVal": "Abs",
    "BNLL": "Softplus",
    "HardSwish": "HardSwish",
}.items():
    register(_type)(partial(_plain, _operator))


@register("Dropout")
def dropout(site: Site) -> Value:
    """Nothing, in phase TEST."""
    return site.bottoms[0]


@register("ReLU")
def relu(site: Site) -> Value:
    """With a slope, LeakyRelu."""
    slope = site.spec.fields.message("relu_param").number("negative_slope")
    if not slope:
        return site.node("Relu", site.bottoms[0])
    return site.node("LeakyRelu", site.bottoms[0], alpha=slope)


@register("ReLU6")
def relu6(site: Site) -> Value:
    """Clip to 0..6."""
    return site.node("Clip", site.bottoms[0], site.constant("low", 0), site.constant("high", 6))


@register("Clip")
def clip(site: Site) -> Value:
    """Clip to the layer's range."""
    param = site.spec.fields.message("clip_param")
    low, high = (site.constant(name, param.number(name)) for name in ("min", "max"))
    return site.node("Clip", site.bottoms[0], low, high)


@register("ELU")
def elu(site: Site) -> Value:
    """The same operator."""
    return site.node("Elu", site.bottoms[0], alpha=site.spec.fields.message("elu_param").number("alpha"))


@register("Swish")
def swish(site: Site) -> Value:
    """The product x * sigmoid(beta * x)."""
    x, beta = site.bottoms[0], site.spec.fields.message("swish_param").number("beta")
    inner = x if beta == 1 else site.node("Mul", x, site.constant("beta", beta))
    return site.node("Mul", x, site.node("Sigmoid", inner))


@register("Threshold")
def threshold(site: Site) -> Value:
    """1 above the threshold, else 0."""
    limit = site.constant("threshold", site.spec.fields.message("threshold_param").number("threshold"))
    return site.node("Cast", site.node("Greater", site.bottoms[0], limit), to=1)


@register("Power")
def power(site: Site) -> Value:
    """The power (shift + scale * x)^power; parts that change nothing are left out."""
    param = site.spec.fields.message("power_param")
    exponent, scale, shift = (param.number(name) for name in ("power", "scale", "shift"))
    x = _affine(site, site.bottoms[0], scale, shift)
    return x if exponent == 1 else site.node("Pow", x, site.constant("power", exponent))


@register("Exp")
def exp(site: Site) -> Value:
    """Powers base^(shift + scale * x); base -1 is e."""
    param = site.spec.fields.message("exp_param")
    base = param.number("base")
    log_base = 1.0 if base == -1 else math.log(base)
    inner = _affine(site, site.bottoms[0], log_base * param.number("scale"), 0.0)
    return _affine(site, site.node("Exp", inner), math.exp(log_base * param.number("shift")), 0.0)


@register("Log")
def log(site: Site) -> Value:
    """Logarithm of shift + scale * x to the base; base -1 is e."""
    param = site.spec.fields.message("log_param")
    base, scale, shift = (param.number(name) for name in ("base", "scale", "shift"))
    value = site.node("Log", _affine(site, site.bottoms[0], scale, shift))
    return value if base == -1 else _affine(site, value, 1 / math.log(base), 0.0)


def _affine(site: Site, x: Value, scale: float, shift: float) -> Value:
    """The value scale * x + shift, without the steps that change nothing."""
    if scale != 1:
        x = site.node("Mul", x, site.constant("scale", scale))
    return x if shift == 0 else site.node("Add", x, site.constant("shift", shift))


@register("PReLU")
def prelu(site: Site) -> Value:
    """One slope per channel, or one for all."""
    dims = len(site.shapes[0])
    slopes = site.module.blobs[0].numel()
    shape = (slopes, *(1,) * (dims - 2)) if slopes > 1 else (1,) * (dims - 1)
    return site.node("PRelu", site.bottoms[0], site.parameter(0, shape))
