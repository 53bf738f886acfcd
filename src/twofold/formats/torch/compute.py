"""One layer in torch, from its geometry and its weight as `ConvLayer` has it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ...conv import ConvGeometry

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def convolve(geometry: ConvGeometry, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What a layer gives for x (N, C_in, *size)."""
    if geometry.kind == "linear":
        y = weight.flatten(1) @ x
        return y if bias is None else y + bias[:, None]
    if geometry.kind == "transposed":
        return _transposed(geometry, x, weight, bias)
    pad = tuple(before for before, _ in geometry.pad)
    if any(before != after for before, after in geometry.pad):
        x = functional.pad(x, [side for pair in reversed(geometry.pad) for side in pair])
        pad = (0,) * len(pad)
    run = _CONV[len(geometry.kernel)]
    return run(x, weight, bias, geometry.stride, pad, geometry.dilation, geometry.groups)


def linear_images(tensor: Tensor) -> Tensor:
    """Vectors (..., C) of a fully connected layer as (N, C, positions).

    Where there is but one in each sample, the samples are the positions of one image.
    """
    if tensor.dim() < 3:
        return tensor.reshape(-1, tensor.shape[-1]).T[None]
    return tensor.flatten(1, -2).transpose(1, 2)


def _transposed(geometry: ConvGeometry, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    g, axes = geometry, len(geometry.kernel)
    by_group = weight.reshape(g.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    # Without pads first, since torch takes the same on both sides only; they cut the borders off.
    whole = _TRANSPOSED[axes](x, by_group, None, g.stride, 0, 0, g.groups, g.dilation)
    sides = [
        side
        for (before, after), more in reversed(list(zip(g.pad, g.output_padding, strict=True)))
        for side in (-before, more - after)
    ]
    cut = functional.pad(whole, sides)
    return cut if bias is None else cut + bias.reshape(-1, *(1,) * axes)
