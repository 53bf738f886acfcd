"""Layers that move values without changing them, and sums over axes."""

from __future__ import annotations

import math

import numpy as np

from ..formats.caffe.fields import axis_of
from .registry import register
from .site import Site, Value


@register("Split")
def split(site: Site) -> tuple[Value, ...]:
    """The bottom, under several names."""
    return site.bottoms * len(site.spec.tops)


@register("Slice")
def cut(site: Site) -> tuple[Value, ...]:
    """Parts of the bottom along one axis."""
    param = site.spec.fields.message("slice_param")
    axis = axis_of(param.integer("slice_dim" if param.has("slice_dim") else "axis"), len(site.shapes[0]))
    sizes = [shape[axis] for shape in site.top_shapes]
    return site.nodes("Split", (site.bottoms[0], site.integers("sizes", sizes)), len(sizes), axis=axis)


@register("Reshape", "Flatten", "Squeeze")
def reshape(site: Site) -> Value:
    """The same values in another shape."""
    return site.reshaped(site.bottoms[0], site.top_shapes[0])


@register("Concat")
def concat(site: Site) -> Value:
    """Blobs one behind the other along an axis."""
    param = site.spec.fields.message("concat_param")
    axis = param.integer("concat_dim" if param.has("concat_dim") else "axis")
    return site.node("Concat", *site.bottoms, axis=axis_of(axis, len(site.shapes[0])))


@register("Permute")
def permute(site: Site) -> Value:
    """Axes in another order; those that `order` does not name follow in their own order."""
    order = site.spec.fields.message("permute_param").integers("order")
    rest = [axis for axis in range(len(site.shapes[0])) if axis not in order]
    return site.node("Transpose", site.bottoms[0], perm=[*order, *rest])


@register("Transpose")
def transpose(site: Site) -> Value:
    """Axes in another order."""
    order = site.spec.fields.message("transpose_param").integers("dim")
    return site.node("Transpose", site.bottoms[0], perm=order)


@register("Reverse")
def reverse(site: Site) -> Value:
    """A slice with a step of -1 along each axis."""
    given = site.spec.fields.message("reverse_param").integers("axis") or (0,)
    axes = [axis_of(axis, len(site.shapes[0])) for axis in given]
    # Behind the first place there is no last one to end at but a number below all.
    parts = {"starts": -1, "ends": -(2**31), "axes": None, "steps": -1}
    lists = (
        site.integers(name, axes if value is None else [value] * len(axes)) for name, value in parts.items()
    )
    return site.node("Slice", site.bottoms[0], *lists)


@register("Tile")
def tile(site: Site) -> Value:
    """The blob repeated along an axis."""
    param = site.spec.fields.message("tile_param")
    times = [1] * len(site.shapes[0])
    times[axis_of(param.integer("axis"), len(times))] = param.integer("tiles")
    return site.node("Tile", site.bottoms[0], site.integers("times", times))


@register("Crop")
def crop(site: Site) -> Value:
    """The first bottom cut to the size of the second, from `axis` on."""
    param, dims = site.spec.fields.message("crop_param"), len(site.shapes[0])
    axis = axis_of(param.integer("axis"), dims)
    given = param.integers("offset") or (0,)
    starts = given * (dims - axis) if len(given) == 1 else given
    ends = [start + size for start, size in zip(starts, site.shapes[1][axis:], strict=True)]
    names = {"starts": starts, "ends": ends, "axes": range(axis, dims)}
    return site.node("Slice", site.bottoms[0], *(site.integers(name, of) for name, of in names.items()))


@register("Reduction")
def reduction(site: Site) -> Value:
    """SUM, ASUM (of absolute values), SUMSQ (of squares) or MEAN over the axes from `axis` on, by coeff."""
    param, x = site.spec.fields.message("reduction_param"), site.bottoms[0]
    axes = range(axis_of(param.integer("axis"), len(site.shapes[0])), len(site.shapes[0]))
    operation, coefficient = param.text("operation"), param.number("coeff")
    if operation == "MEAN":
        value = site.node("ReduceMean", x, axes=axes, keepdims=0)
    else:
        terms = {
            "SUM": lambda: x,
            "ASUM": lambda: site.node("Abs", x),
            "SUMSQ": lambda: site.node("Mul", x, x),
        }
        value = site.node("ReduceSum", terms[operation](), site.integers("axes", axes), keepdims=0)
    return value if coefficient == 1 else site.node("Mul", value, site.constant("coeff", coefficient))


@register("Softmax")
def softmax(site: Site) -> Value:
    """exp(x) over its sum along an axis."""
    axis = axis_of(site.spec.fields.message("softmax_param").integer("axis"), len(site.shapes[0]))
    return site.node("Softmax", site.bottoms[0], axis=axis)


@register("ArgMax")
def argmax(site: Site) -> Value:
    """Indices (as floats) of the `top_k` largest values, or these; see `caffe_torch.shape.argmax`."""
    param, shape = site.spec.fields.message("argmax_param"), site.shapes[0]
    k, values_too = param.integer("top_k"), param.flag("out_max_val")
    if param.has("axis"):
        axis = axis_of(param.integer("axis"), len(shape))
        values, index = _largest(site, site.bottoms[0], axis, shape[axis], k)
        return values if values_too else index
    rows = site.node("Flatten", site.bottoms[0], axis=1)
    found = _largest(site, rows, 1, math.prod(shape[1:]), k)
    parts = [site.reshaped(part, (shape[0], 1, k)) for part in (found[::-1] if values_too else found[1:])]
    both = site.node("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
    return site.reshaped(both, site.top_shapes[0]) if len(site.top_shapes[0]) > 3 else both


def _largest(site: Site, x: Value, axis: int, size: int, k: int) -> tuple[Value, Value]:
    """The largest values and their indices; of equal values ONNX takes the first, Caffe the last."""
    backwards = site.integers("backwards", range(size - 1, -1, -1))
    flipped = site.node("Gather", x, backwards, axis=axis)
    values, index = site.nodes("TopK", (flipped, site.integers("k", (k,))), 2, axis=axis)
    place = site.node("Sub", site.constant("last", size - 1, np.int64), index)
    return values, site.node("Cast", place, to=1)


@register("Filter")
def select_items(site: Site) -> tuple[Value, ...]:
    """Of every bottom but the last, the items whose selector, the last bottom, is not zero."""
    selector = site.reshaped(site.bottoms[-1], site.shapes[-1][:1])
    keep = site.node("Cast", selector, to=9)
    return tuple(site.node("Compress", bottom, keep, axis=0) for bottom in site.bottoms[:-1])


@register("BatchReindex")
def batch_reindex(site: Site) -> Value:
    """Items of the first bottom in the order that the second names, repeats allowed."""
    index = site.node("Cast", site.reshaped(site.bottoms[1], (math.prod(site.shapes[1]),)), to=7)
    return site.node("Gather", site.bottoms[0], index)


@register("ShuffleChannel")
def shuffle_channel(site: Site) -> Value:
    """Channels dealt out: those of g groups alternate afterwards."""
    groups = site.spec.fields.message("shuffle_channel_param").integer("group")
    batch, channels, *size = site.shapes[0]
    dealt = site.reshaped(site.bottoms[0], (batch, groups, channels // groups, *size))
    order = [0, 2, 1, *range(3, 3 + len(size))]
    return site.reshaped(site.node("Transpose", dealt, perm=order), site.shapes[0])
