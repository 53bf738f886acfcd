"""Pooling and SPP with Caffe's window rules.

Operators of ONNX round down and pad by attributes; where Caffe's last window overhangs, the pad behind the
image is made just as large as that window needs. ONNX's own `ceil_mode` is no help: runtimes disagree on what
an overhanging average is divided by. The windows themselves are explained in `caffe_torch.pooling`.
"""

from __future__ import annotations

import math

import numpy as np

from ..caffe_torch.pooling import Pooling
from ..conv import Size
from ..errors import ModelError
from .registry import register
from .site import Site, Value

_LOWEST = float(np.finfo(np.float32).min)
_SMALLEST = float(np.finfo(np.float32).tiny)


@register("Pooling")
def pooling(site: Site) -> Value | tuple[Value, ...]:
    """MAX, AVE or STOCHASTIC over windows; a second top of MAX holds the winner's index."""
    layer = site.module
    assert isinstance(layer, Pooling)
    size, out = site.shapes[0][2:], site.top_shapes[0][2:]
    x = site.bottoms[0]
    if layer.whole and layer.method != "STOCHASTIC" and len(site.spec.tops) == 1:
        return site.node({"MAX": "GlobalMaxPool", "AVE": "GlobalAveragePool"}[layer.method], x)
    kernel, stride, pad = layer.kernel, layer.stride, layer.pad
    if layer.whole:
        kernel, stride, pad = size, (1, 1), (0, 0)
    if layer.method == "AVE":
        return average(site, x, size, kernel, stride, pad, out)
    if layer.method == "STOCHASTIC":
        # The expectation at test time: of values drawn in proportion to themselves.
        squares, sums = (
            average(site, value, size, kernel, stride, (0, 0), out) for value in (site.node("Mul", x, x), x)
        )
        return site.node("Div", squares, site.node("Add", sums, site.constant("smallest", _SMALLEST)))
    if len(site.spec.tops) == 1:
        return maximum(site, x, size, kernel, stride, pad, out)
    return _maximum_and_index(site, size, kernel, stride, pad, out)


def _ends(size: Size, kernel: Size, stride: Size, pad: Size, out: Size) -> Size:
    """How far the last window reaches beyond the image, per axis; 0 where it ends inside."""
    return tuple(
        max(0, (o - 1) * s + k - n - p) for n, k, s, p, o in zip(size, kernel, stride, pad, out, strict=True)
    )


def _fits(kernel: Size, *pads: Size) -> bool:
    """Whether pads can be attributes of a pooling operator: no window may lie in them altogether."""
    return all(p < k for pad in pads for p, k in zip(pad, kernel, strict=True))


def _pool(
    site: Site, operator: str, x: Value, kernel: Size, stride: Size, pads: tuple[Size, Size], fill: float,
    count: int = 1, **attributes: int,
) -> tuple[Value, ...]:  # fmt: skip
    """A pooling operator over an image with pads (before, after)."""
    around = (*pads[0], *pads[1])
    if not _fits(kernel, *pads):
        frame = site.integers("pads", (0, 0, *pads[0], 0, 0, *pads[1]))
        x, around = site.node("Pad", x, frame, site.constant("fill", fill)), (0,) * len(around)
    return site.nodes(operator, (x,), count, kernel_shape=kernel, strides=stride, pads=around, **attributes)


def maximum(site: Site, x: Value, size: Size, kernel: Size, stride: Size, pad: Size, out: Size) -> Value:
    """MAX over windows; padding never wins."""
    ends = _ends(size, kernel, stride, pad, out)
    return _pool(site, "MaxPool", x, kernel, stride, (pad, ends), _LOWEST)[0]


def _maximum_and_index(
    site: Site, size: Size, kernel: Size, stride: Size, pad: Size, out: Size
) -> tuple[Value, Value]:
    ends = _ends(size, kernel, stride, pad, out)
    if not _fits(kernel, pad, ends):
        raise ModelError(
            f"{site.spec.label} gives the place of a maximum in windows that may lie outside of the image, "
            "which ONNX cannot; make its kernel larger than its pad"
        )
    values, index = _pool(site, "MaxPool", site.bottoms[0], kernel, stride, (pad, ends), _LOWEST, count=2)
    # ONNX counts through the whole batch, Caffe through each channel.
    place = site.node("Mod", index, site.constant("plane", math.prod(size), np.int64))
    return values, site.node("Cast", place, to=1)


def average(site: Site, x: Value, size: Size, kernel: Size, stride: Size, pad: Size, out: Size) -> Value:
    """Mean over windows; padding counts in the divisor, what lies beyond size + pad does not."""
    ends = _ends(size, kernel, stride, pad, out)
    mean = _pool(site, "AveragePool", x, kernel, stride, (pad, ends), 0.0, count_include_pad=1)[0]
    counts = []
    for n, k, s, p, o in zip(size, kernel, stride, pad, out, strict=True):
        start = np.arange(o) * s - p
        counts.append(np.minimum(start + k, n + p) - start)
    counted = np.outer(*counts)
    if (counted == math.prod(kernel)).all():
        return mean
    with np.errstate(divide="ignore"):  # a window outside of the image: Caffe divides 0 by 0
        factor = math.prod(kernel) / counted
    return site.node("Mul", mean, site.constant("divisor", factor))


@register("SPP")
def spatial_pyramid(site: Site) -> Value:
    """Pools to 1x1, 2x2, 4x4, ... bins, and joins all bins of all levels to one vector per image."""
    param, shape = site.spec.fields.message("spp_param"), site.shapes[0]
    pool = {"MAX": maximum, "AVE": average}[param.text("pool")]
    levels = []
    for level in range(param.integer("pyramid_height")):
        bins = 2**level
        kernel = tuple(math.ceil(n / bins) for n in shape[2:])
        pad = tuple((k * bins - n + 1) // 2 for k, n in zip(kernel, shape[2:], strict=True))
        levels.append(pool(site, site.bottoms[0], shape[2:], kernel, kernel, pad, (bins, bins)))
    if len(levels) == 1:
        return levels[0]
    return site.node("Concat", *(site.node("Flatten", level, axis=1) for level in levels), axis=1)
