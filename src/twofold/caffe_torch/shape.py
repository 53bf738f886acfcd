"""Layers that move values without changing them, and sums over axes.

Source: BVLC Caffe 1.0; Permute from the SSD branch, ShuffleChannel, Squeeze, Transpose and
Reverse from forks.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..formats.caffe.fields import axis_of
from ..formats.caffe.net import LayerSpec
from .layer import Layer, Operation, Tops
from .registry import register, register_stateless


@register_stateless("Split")
def split(spec: LayerSpec) -> Operation:
    """The bottom, under several names."""
    return lambda bottom: (bottom,) * len(spec.tops)


@register_stateless("Silence", "HDF5Output")
def silence(spec: LayerSpec) -> Operation:
    """Nothing."""
    return lambda *bottoms: ()


@register("Slice")
class Slice(Layer):
    """Parts of the bottom along one axis, cut at the slice points or into equal parts."""

    def forward(self, *bottoms: Tensor) -> Tops:
        """Cut a blob of any shape."""
        param = self.spec.fields.message("slice_param")
        axis = axis_of(param.integer("slice_dim" if param.has("slice_dim") else "axis"), bottoms[0].dim())
        sizes = [shape[axis] for shape in self.top_shapes(*bottoms)]
        return tuple(torch.split(bottoms[0], sizes, axis))


@register("Reshape", "Flatten", "Squeeze")
class Reshape(Layer):
    """The same values in another shape."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Reshape a blob of any shape."""
        return bottoms[0].reshape(self.top_shapes(*bottoms)[0])


@register_stateless("Concat")
def concat(spec: LayerSpec) -> Operation:
    """Blobs one behind the other along an axis."""
    param = spec.fields.message("concat_param")
    axis = param.integer("concat_dim" if param.has("concat_dim") else "axis")
    return lambda *bottoms: torch.cat(bottoms, axis)


@register_stateless("Permute")
def permute(spec: LayerSpec) -> Operation:
    """Axes in another order; those that `order` does not name follow in their own order."""
    order = spec.fields.message("permute_param").integers("order")
    return lambda bottom: bottom.permute(*order, *(a for a in range(bottom.dim()) if a not in order))


@register_stateless("Transpose")
def transpose(spec: LayerSpec) -> Operation:
    """Axes in another order, all of which `dim` names."""
    order = spec.fields.message("transpose_param").integers("dim")
    return lambda bottom: bottom.permute(*order)


@register_stateless("Reverse")
def reverse(spec: LayerSpec) -> Operation:
    """The blob backwards along an axis, or several."""
    axes = spec.fields.message("reverse_param").integers("axis") or (0,)
    return lambda bottom: bottom.flip([axis_of(axis, bottom.dim()) for axis in axes])


@register_stateless("Tile")
def tile(spec: LayerSpec) -> Operation:
    """The blob repeated along an axis."""
    param = spec.fields.message("tile_param")

    def repeat(bottom: Tensor) -> Tensor:
        times = [1] * bottom.dim()
        times[axis_of(param.integer("axis"), bottom.dim())] = param.integer("tiles")
        return bottom.repeat(times)

    return repeat


@register_stateless("Crop")
def crop(spec: LayerSpec) -> Operation:
    """The first bottom cut to the size of the second, from `axis` on, behind one offset or one per axis."""
    param = spec.fields.message("crop_param")

    def cut(bottom: Tensor, like: Tensor) -> Tensor:
        axis = axis_of(param.integer("axis"), bottom.dim())
        axes = bottom.dim() - axis
        given = param.integers("offset") or (0,)
        offsets = given * axes if len(given) == 1 else given
        if len(offsets) != axes:
            raise ValueError(f"{len(offsets)} offsets for {axes} axes; give one, or one for each axis")
        for i, offset in enumerate(offsets, start=axis):
            if offset + like.shape[i] > bottom.shape[i]:
                raise ValueError(
                    f"offset {offset} leaves less than the wanted size {like.shape[i]} on axis {i}"
                )
            bottom = bottom.narrow(i, offset, like.shape[i])
        return bottom

    return cut


@register_stateless("Reduction")
def reduction(spec: LayerSpec) -> Operation:
    """SUM, ASUM (of absolute values), SUMSQ (of squares) or MEAN over the axes from `axis` on, by coeff."""
    param = spec.fields.message("reduction_param")
    prepare, mean = {
        "SUM": (None, False),
        "ASUM": (torch.abs, False),
        "SUMSQ": (torch.square, False),
        "MEAN": (None, True),
    }[param.text("operation")]

    def reduce(bottom: Tensor) -> Tensor:
        rows = bottom.flatten(axis_of(param.integer("axis"), bottom.dim()))
        rows = rows if prepare is None else prepare(rows)
        return (rows.mean(-1) if mean else rows.sum(-1)) * param.number("coeff")

    return reduce


@register_stateless("Softmax")
def softmax(spec: LayerSpec) -> Operation:
    """exp(x) over its sum along an axis."""
    return partial(torch.softmax, dim=spec.fields.message("softmax_param").integer("axis"))


@register_stateless("ArgMax")
def argmax(spec: LayerSpec) -> Operation:
    """Indices (as floats) of the `top_k` largest values; of equal values the larger index comes first.

    Along `axis`; without one over each whole image, as (N, 1, top_k), with `out_max_val` (N, 2, top_k) where
    the second row holds the values. Along an axis `out_max_val` gives the values alone.
    """
    param = spec.fields.message("argmax_param")
    k, values_too = param.integer("top_k"), param.flag("out_max_val")

    def largest(bottom: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        values, order = torch.sort(bottom.flip(axis), dim=axis, descending=True, stable=True)
        index = (bottom.shape[axis] - 1 - order).to(bottom.dtype)
        return values.narrow(axis, 0, k), index.narrow(axis, 0, k)

    def select(bottom: Tensor) -> Tensor:
        bottom = bottom.detach()
        if param.has("axis"):
            values, index = largest(bottom, axis_of(param.integer("axis"), bottom.dim()))
            return values if values_too else index
        values, index = largest(bottom.flatten(1), 1)
        rows = torch.stack((index, values) if values_too else (index,), 1)
        return rows.reshape(*rows.shape, *(1,) * max(0, bottom.dim() - 3))

    return select


@register_stateless("Filter")
def select_items(spec: LayerSpec) -> Operation:
    """Of every bottom but the last, the items whose selector, the last bottom, is not zero."""

    def select(*bottoms: Tensor) -> Tops:
        keep = bottoms[-1].flatten() != 0
        return tuple(bottom[keep] for bottom in bottoms[:-1])

    return select


@register_stateless("BatchReindex")
def batch_reindex(spec: LayerSpec) -> Operation:
    """Items of the first bottom in the order that the second names, repeats allowed."""
    return lambda bottom, index: bottom[index.flatten().to(torch.int64)]


@register_stateless("ShuffleChannel")
def shuffle_channel(spec: LayerSpec) -> Operation:
    """Channels dealt out: those of g groups alternate afterwards."""
    groups = spec.fields.message("shuffle_channel_param").integer("group")
    return lambda x: x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
