"""Layers that combine blobs value by value: Eltwise, Scale, Bias, Axpy, Mul."""

from __future__ import annotations

from functools import reduce

from ..conv import Size
from ..formats.caffe.fields import axis_of
from .registry import register
from .site import Site, Value

#: Operations that take two blobs at a time.
_REDUCED = {"PROD": "Mul", "DIV": "Div"}


@register("Eltwise")
def eltwise(site: Site) -> Value:
    """SUM with coefficients, PROD, MAX or DIV."""
    param = site.spec.fields.message("eltwise_param")
    operation, given = param.text("operation"), param.numbers("coeff")
    if operation == "MAX":
        return site.node("Max", *site.bottoms)
    if operation in _REDUCED:
        return reduce(lambda one, other: site.node(_REDUCED[operation], one, other), site.bottoms)
    terms = [
        bottom if factor == 1 else site.node("Mul", bottom, site.constant("coeff", factor))
        for bottom, factor in zip(site.bottoms, given or (1.0,) * len(site.bottoms), strict=True)
    ]
    return reduce(lambda one, other: site.node("Add", one, other), terms)


@register("Axpy")
def axpy(site: Site) -> Value:
    """Sums a * x + y with one factor per image and channel."""
    factor = site.reshaped(site.bottoms[0], (*site.shapes[1][:2], *(1,) * (len(site.shapes[1]) - 2)))
    return site.node("Add", site.node("Mul", factor, site.bottoms[1]), site.bottoms[2])


@register("Mul")
def mul(site: Site) -> Value:
    """The same operator, with the second bottom or the learned factor."""
    factor = site.bottoms[1] if len(site.bottoms) > 1 else site.parameter(0)
    return site.node("Mul", site.bottoms[0], factor)


@register("Scale")
def scale(site: Site) -> Value:
    """The product x * factor (+ bias), learned or given as the second bottom."""
    param = site.spec.fields.message("scale_param")
    learned, axis = len(site.bottoms) == 1, param.integer("axis")
    factor = _learned(site, 0, axis) if learned else _given(site, axis)
    value = site.node("Mul", site.bottoms[0], factor)
    if not param.flag("bias_term"):
        return value
    return site.node("Add", value, _learned(site, int(learned), axis))


@register("Bias")
def bias(site: Site) -> Value:
    """The sum x + bias, learned or given as the second bottom."""
    axis = site.spec.fields.message("bias_param").integer("axis")
    shift = _learned(site, 0, axis) if len(site.bottoms) == 1 else _given(site, axis)
    return site.node("Add", site.bottoms[0], shift)


def _aligned(shape: Size, axis: int, dims: int) -> Size:
    """The shape with ones behind it, so that its first axis meets `axis` of a blob of `dims` axes."""
    first = axis_of(axis, dims) if shape else dims
    return (*shape, *(1,) * (dims - first - len(shape)))


def _learned(site: Site, index: int, axis: int) -> Value:
    shape = tuple(site.module.blobs[index].shape)
    return site.parameter(index, _aligned(shape, axis, len(site.shapes[0])))


def _given(site: Site, axis: int) -> Value:
    shape = _aligned(site.shapes[1], axis, len(site.shapes[0]))
    return site.bottoms[1] if shape == site.shapes[1] else site.reshaped(site.bottoms[1], shape)
