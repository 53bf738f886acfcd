"""Pooling3D of C3D; its Convolution3D is a Convolution."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from ..caffe_torch.volume import Pooling3D
from .registry import register
from .site import Site, Value

_LOWEST = float(np.finfo(np.float32).min)


@register("Pooling3D")
def pooling3d(site: Site) -> Value:
    """A pooling operator over the volume in a frame just as large as its windows need."""
    layer = site.module
    assert isinstance(layer, Pooling3D)
    sizes = list(
        zip(site.shapes[0][2:], layer.kernel, layer.stride, layer.pad, site.top_shapes[0][2:], strict=True)
    )
    ends = [(o - 1) * s + k - n - p for n, k, s, p, o in sizes]
    most = layer.method == "MAX"
    x = site.bottoms[0]
    if any((*layer.pad, *ends)):
        frame = site.integers("pads", (0, 0, *layer.pad, 0, 0, *ends))
        x = site.node("Pad", x, frame, site.constant("fill", _LOWEST if most else 0))
    value = site.node(
        "MaxPool" if most else "AveragePool", x, kernel_shape=layer.kernel, strides=layer.stride
    )
    if most:
        return value
    counts = [np.minimum(np.arange(o) * s - p + k, n + p) - (np.arange(o) * s - p) for n, k, s, p, o in sizes]
    counted = reduce(np.multiply.outer, counts)
    taps = math.prod(layer.kernel)
    if (counted == taps).all():
        return value
    with np.errstate(divide="ignore"):  # a window outside of the volume: C3D divides 0 by 0
        return site.node("Mul", value, site.constant("divisor", taps / counted))
