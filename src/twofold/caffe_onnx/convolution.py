"""Convolution, Deconvolution and Im2col over any number of spatial axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..conv import Size
from ..formats.caffe.fields import axis_of
from ..formats.caffe.window import Window, window
from .registry import register
from .site import Site, Value


@register("Convolution")
def convolution(site: Site) -> tuple[Value, ...]:
    """The same operator, once per bottom."""
    return _convolve(site, "Conv")


@register("Deconvolution")
def deconvolution(site: Site) -> tuple[Value, ...]:
    """ConvTranspose, whose weight has Caffe's layout."""
    return _convolve(site, "ConvTranspose")


def _convolve(site: Site, operator: str) -> tuple[Value, ...]:
    param = site.spec.fields.message("convolution_param")
    parameters = [site.parameter(index) for index in range(len(site.module.blobs))]
    weight, tops = tuple(site.module.blobs[0].shape), []
    for bottom, shape, top in zip(site.bottoms, site.shapes, site.top_shapes, strict=True):
        axis = axis_of(param.integer("axis"), len(shape))
        channels = shape[axis] if operator == "Conv" else top[axis]
        attributes = _attributes(window(site.spec, param, len(shape) - axis - 1), channels // weight[1])
        images = _as_batch(site, bottom, shape, axis)
        value = site.node(operator, images, *parameters, **attributes)
        tops.append(value if axis == 1 else site.reshaped(value, top))
    return tuple(tops)


def _attributes(of: Window, groups: int) -> dict[str, Any]:
    return {
        "kernel_shape": of.kernel, "strides": of.stride, "pads": sum(zip(*of.pad, strict=True), ()),
        "dilations": of.dilation, "group": groups,
    }  # fmt: skip


def _as_batch(site: Site, value: Value, shape: Size, axis: int) -> Value:
    """The axes before `axis` as one."""
    if axis == 1:
        return value
    return site.reshaped(value, (math.prod(shape[:axis]), *shape[axis:]))


@register("Im2col")
def im2col(site: Site) -> Value:
    """A convolution of every channel with one kernel per tap that is 1 there and 0 elsewhere."""
    param, shape = site.spec.fields.message("convolution_param"), site.shapes[0]
    axis = axis_of(param.integer("axis"), len(shape))
    of, channels = window(site.spec, param, len(shape) - axis - 1), shape[axis]
    taps = np.eye(math.prod(of.kernel)).reshape(-1, 1, *of.kernel)
    weight = site.constant("taps", np.tile(taps, (channels, *(1,) * (taps.ndim - 1))))
    images = _as_batch(site, site.bottoms[0], shape, axis)
    value = site.node("Conv", images, weight, **_attributes(of, channels))
    return value if axis == 1 else site.reshaped(value, site.top_shapes[0])
