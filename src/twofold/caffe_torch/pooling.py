"""Pooling and SPP with Caffe's window rules.

The output size is rounded up, so windows may reach beyond the image, and without padding the last one may
even lie outside altogether: its maximum is -FLT_MAX, its average NaN. Torch's own pooling gives the same
numbers wherever it arrives at the same output size; the other cases are padded here by hand.
Source: BVLC Caffe 1.0, `pooling_layer.cpp` and `.cu`, `spp_layer.cpp`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..conv import Size
from ..formats.caffe.fields import Fields
from .layer import Layer, Setup, Tops
from .registry import register

#: Caffe's start value of a maximum, also in float64.
LOWEST = torch.finfo(torch.float32).min
_SMALLEST = torch.finfo(torch.float32).tiny
_AXES = ("h", "w")


@register("Pooling")
class Pooling(Layer):
    """MAX, AVE or STOCHASTIC over windows of (N, C, H, W); a second top of MAX holds the winner's index."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param = setup.spec.fields.message("pooling_param")
        self.method, self.whole = param.text("pool"), param.flag("global_pooling")
        self.kernel = _pair(param, "kernel", "kernel_size")
        self.stride, self.pad = _pair(param, "stride", "stride"), _pair(param, "pad", "pad")

    def forward(self, *bottoms: Tensor) -> Tops:
        """Pool (N, C, H, W) to (N, C, out_h, out_w)."""
        image = bottoms[0]
        kernel, stride, pad = self.kernel, self.stride, self.pad
        if self.whole:
            kernel, stride, pad = tuple(image.shape[2:]), (1, 1), (0, 0)
        out = self.top_shapes(image)[0][2:]
        if self.method == "STOCHASTIC":
            return _stochastic(image, kernel, stride, out, self.training)
        if self.method == "AVE":
            return average(image, kernel, stride, pad, out)
        if len(self.spec.tops) > 1:
            return maximum_and_index(image, kernel, stride, pad, out)
        return maximum(image, kernel, stride, pad, out)


def maximum(image: Tensor, kernel: Size, stride: Size, pad: Size, out: Size) -> Tensor:
    """MAX over windows; padding never wins."""
    if _native(image.shape[2:], kernel, stride, pad, out):
        return functional.max_pool2d(image, kernel, stride, pad, ceil_mode=True)
    return functional.max_pool2d(framed(image, kernel, stride, pad, out, LOWEST), kernel, stride)


def maximum_and_index(
    image: Tensor, kernel: Size, stride: Size, pad: Size, out: Size
) -> tuple[Tensor, Tensor]:
    """MAX, and the place h * W + w of the first maximum of each window; -1 for an empty window."""
    padded = framed(image, kernel, stride, pad, out, LOWEST)
    values, index = functional.max_pool2d(padded, kernel, stride, return_indices=True)
    (height, width), wide = image.shape[2:], padded.shape[3]
    row, column = index // wide - pad[0], index % wide - pad[1]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return values, torch.where(inside, row * width + column, -1).to(image.dtype)


def average(image: Tensor, kernel: Size, stride: Size, pad: Size, out: Size) -> Tensor:
    """Mean over windows; padding counts in the divisor, what lies beyond size + pad does not."""
    if _native(image.shape[2:], kernel, stride, pad, out):
        return functional.avg_pool2d(image, kernel, stride, pad, ceil_mode=True, count_include_pad=True)
    padded = framed(image, kernel, stride, pad, out, 0.0)
    sums = functional.avg_pool2d(padded, kernel, stride, divisor_override=1)
    counts = []
    for size, k, s, p, o in zip(image.shape[2:], kernel, stride, pad, out, strict=True):
        start = torch.arange(o, device=image.device) * s - p
        counts.append((start + k).clamp(max=size + p) - start)
    return sums / torch.outer(*counts).to(image.dtype)


def _stochastic(image: Tensor, kernel: Size, stride: Size, out: Size, training: bool) -> Tensor:
    """Of each window a value drawn with probability proportional to it; at test time the expectation."""
    padded = framed(image, kernel, stride, (0, 0), out, 0.0)
    windows = padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1]).flatten(4)
    if not training:
        # Caffe starts the sum with FLT_MIN, so that a window of zeros gives 0.
        return windows.square().sum(-1) / (windows.sum(-1) + _SMALLEST)
    drawn = torch.rand(windows.shape[:-1], device=image.device, dtype=image.dtype) * windows.sum(-1)
    place = (windows.cumsum(-1) < drawn[..., None]).sum(-1).clamp(max=windows.shape[-1] - 1)
    return windows.gather(-1, place[..., None])[..., 0]


def _native(size: Size, kernel: Size, stride: Size, pad: Size, out: Size) -> bool:
    """Whether torch's pooling with ceil_mode gives windows at the same places."""
    for n, k, s, p, o in zip(size, kernel, stride, pad, out, strict=True):
        steps = math.ceil((n + 2 * p - k) / s) + 1
        steps -= (steps - 1) * s >= n + p
        if steps != o or p > k // 2:
            return False
    return True


def framed(image: Tensor, kernel: Size, stride: Size, pad: Size, out: Size, value: float) -> Tensor:
    """The image with a frame of `value`, exactly as large as `out` windows need."""
    frame: list[int] = []
    for n, k, s, p, o in zip(image.shape[2:], kernel, stride, pad, out, strict=True):
        frame = [
            p,
            (o - 1) * s + k - n - p,
            *frame,
        ]  # functional.pad counts axes from the last; negative crops
    return functional.pad(image, frame, value=value)


def _pair(param: Fields, name: str, square: str) -> Size:
    """A size per axis; the combinations that Caffe rejects are rejected by the shape rule."""
    if param.has(f"{name}_h") or param.has(f"{name}_w"):
        return tuple(param.integer(f"{name}_{axis}") for axis in _AXES)
    return (param.integer(square),) * 2


@register("SPP")
class SpatialPyramid(Layer):
    """Pools to 1x1, 2x2, 4x4, ... bins, and joins all bins of all levels to one vector per image."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C * bins); a single level stays (N, C, 1, 1), as in Caffe."""
        image, param = bottoms[0], self.spec.fields.message("spp_param")
        pool = {"MAX": maximum, "AVE": average}[param.text("pool")]
        levels = []
        for level in range(param.integer("pyramid_height")):
            bins = 2**level
            kernel = tuple(math.ceil(n / bins) for n in image.shape[2:])
            # Bins that do not divide the image evenly overhang on both sides alike.
            pad = tuple((k * bins - n + 1) // 2 for k, n in zip(kernel, image.shape[2:], strict=True))
            levels.append(pool(image, kernel, kernel, pad, (bins, bins)))
        return levels[0] if len(levels) == 1 else torch.cat([level.flatten(1) for level in levels], 1)
