"""Layers that change height and width: Interp, Upsample and Unpooling.

Source: `interp_layer.cpp` of DeepLab and PSPNet; `upsample_layer.cpp` of alexgkendall/caffe-segnet, and of
the YOLO forks, which has no mask; `unpooling_layer.cpp` of HyeonwooNoh/caffe (DeconvNet).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..conv import Size
from ..formats.caffe.fork_shapes import pair_of
from .layer import Layer, Setup, UnsupportedError
from .registry import register


@register("Interp")
class Interp(Layer):
    """Linear interpolation between the corners of the image, which stay in place; negative pads crop."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        if len(setup.spec.bottoms) != 1:
            raise UnsupportedError(f"{setup.spec.label} (Interp): with a second bottom it cannot be run")

    def forward(self, *bottoms: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, out_h, out_w)."""
        param, size = self.spec.fields.message("interp_param"), self.top_shapes(bottoms[0])[0][2:]
        begin, end = param.integer("pad_beg"), param.integer("pad_end")
        cropped = functional.pad(bottoms[0], (begin, end) * 2)
        return functional.interpolate(cropped, size, mode="bilinear", align_corners=True)


@register("Upsample")
def upsample(setup: Setup) -> Layer:
    """SegNet's puts values where a mask tells; without a mask every pixel becomes a square."""
    if len(setup.spec.bottoms) > 1:
        return Unpool(setup)
    given = setup.spec.fields.message("upsample_param").values
    if set(given) != {"scale"}:
        raise UnsupportedError(
            f"{setup.spec.label} (Upsample): without a mask it is run by its scale alone; "
            f"found {', '.join(given) or 'nothing'}"
        )
    return _Repeat(setup)


class _Repeat(Layer):
    """Nearest neighbour: every pixel becomes a square of `scale` x `scale`."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H * scale, W * scale)."""
        scale = self.spec.fields.message("upsample_param").integer("scale")
        return bottoms[0].repeat_interleave(scale, 2).repeat_interleave(scale, 3)


class Unpool(Layer):
    """Values at the places h * W + w of the top that the second bottom names, per channel; 0 elsewhere.

    Of several values for one place the last stays, as in Caffe.
    """

    def forward(self, *bottoms: Tensor) -> Tensor:
        """(N, C, h, w) and a mask of that shape to (N, C, H, W)."""
        size = tuple(self.top_shapes(*bottoms)[0][2:])
        place = bottoms[1].detach().to(torch.int64)
        if place.numel() and not 0 <= int(place.min()) <= int(place.max()) < math.prod(size):
            raise ValueError(
                f"its mask names places up to {int(place.max())} of {math.prod(size)}; its output must be as "
                "large as the input of the pooling that made the mask"
            )
        return scattered(bottoms[0], place, size)


def scattered(values: Tensor, place: Tensor, size: Size) -> Tensor:
    """Values (N, C, h, w) at their places in planes of `size`, the last of several; 0 where none is."""
    flat = place.flatten(2)
    count = torch.arange(flat.shape[2], device=flat.device).expand_as(flat)
    winner = count.new_full((*flat.shape[:2], math.prod(size)), -1)
    winner = winner.scatter_reduce(2, flat, count, "amax")
    found = values.flatten(2).gather(2, winner.clamp(min=0))
    return torch.where(winner < 0, torch.zeros_like(found), found).reshape(*values.shape[:2], *size)


@register("Unpooling")
def unpooling(setup: Setup) -> Layer:
    """DeconvNet's, by a mask, or without one to the first place of every window.

    Raises:
        UnsupportedError: it spreads values over windows.
    """
    param = setup.spec.fields.message("unpooling_param")
    method, pads = param.text("unpool"), pair_of(param, "pad")
    if method != "MAX" or any(pads):
        raise UnsupportedError(
            f"{setup.spec.label} (Unpooling): unpool is {method} and pad {list(pads)}; MAX without a pad can "
            "be run"
        )
    return Unpool(setup) if len(setup.spec.bottoms) > 1 else _FirstPlace(setup)


class _FirstPlace(Layer):
    """Values at the first place of every window, at multiples of the stride."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C, H, W)."""
        size = tuple(self.top_shapes(*bottoms)[0][2:])
        stride = pair_of(self.spec.fields.message("unpooling_param"), "stride")
        rows, columns = (
            (torch.arange(n, device=bottoms[0].device) * s).clamp(max=limit - 1)
            for n, s, limit in zip(bottoms[0].shape[2:], stride, size, strict=True)
        )
        place = rows[:, None] * size[1] + columns
        return scattered(bottoms[0], place.expand(bottoms[0].shape), size)
