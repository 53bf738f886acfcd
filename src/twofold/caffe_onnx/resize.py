"""Interp, Upsample and Unpooling; see `caffe_torch.resize` for what they compute."""

from __future__ import annotations

import math

from ..caffe_torch.resize import Unpool
from ..errors import ModelError
from .registry import register
from .site import Site, Value


@register("Interp")
def interp(site: Site) -> Value:
    """A crop, and Resize between the corners."""
    param, x = site.spec.fields.message("interp_param"), site.bottoms[0]
    begin, end = param.integer("pad_beg"), param.integer("pad_end")
    size = [n + begin + end for n in site.shapes[0][2:]]
    if begin or end:
        ends = [n - begin for n in size]
        parts = {"starts": (-begin,) * 2, "ends": ends, "axes": (2, 3)}
        x = site.node("Slice", x, *(site.integers(name, of) for name, of in parts.items()))
    # The scales give the size only, rounded down; half a pixel more keeps rounding away from the edge.
    scales = [(out + 0.5) / n for out, n in zip(site.top_shapes[0][2:], size, strict=True)]
    return site.node(
        "Resize", x, "", site.constant("scales", (1, 1, *scales)), mode="linear",
        coordinate_transformation_mode="align_corners",
    )  # fmt: skip


@register("Upsample")
def upsample(site: Site) -> Value:
    """By a mask, or nearest neighbour: every pixel becomes a square."""
    if len(site.bottoms) > 1:
        return _unpool(site)
    scale = site.spec.fields.message("upsample_param").integer("scale")
    times = site.constant("scales", (1, 1, scale, scale))
    return site.node(
        "Resize", site.bottoms[0], "", times, coordinate_transformation_mode="asymmetric",
        mode="nearest", nearest_mode="floor",
    )  # fmt: skip


@register("Unpooling")
def unpooling(site: Site) -> Value:
    """By a mask.

    Raises:
        ModelError: there is none.
    """
    if not isinstance(site.module, Unpool):
        raise ModelError(f"{site.spec.label} (Unpooling) has no mask; with one it can be exported")
    return _unpool(site)


def _unpool(site: Site) -> Value:
    """ScatterElements into zeros, per channel."""
    batch, channels, *size = site.shapes[0]
    plane, out = math.prod(size), math.prod(site.top_shapes[0][2:])
    values = site.reshaped(site.bottoms[0], (batch, channels, plane))
    place = site.node("Cast", site.reshaped(site.bottoms[1], (batch, channels, plane)), to=7)
    # Nothing is less than itself: zeros for any batch, also where values are not finite.
    zero = site.node("Cast", site.node("Less", values, values), to=1)
    start = site.node(
        "Slice", zero, *(site.integers(n, (v,)) for n, v in (("from", 0), ("to", 1), ("axis", 2)))
    )
    zeros = site.node("Tile", start, site.integers("times", (1, 1, out)))
    return site.reshaped(site.node("ScatterElements", zeros, place, values, axis=2), site.top_shapes[0])
