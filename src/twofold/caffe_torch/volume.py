"""C3D's layers over depth, height and width.

Source: facebookarchive/C3D, `convolution3d_layer.cpp`, `pool3d_layer.cpp`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ..formats.caffe.fork_shapes import pooling3d
from ..formats.caffe.layer_types import as_convolution, volume_param
from .convolution import Convolution
from .layer import Layer, Setup, UnsupportedError
from .pooling import LOWEST, framed
from .registry import register


@register("Convolution3D")
def convolution3d(setup: Setup) -> Layer:
    """A convolution over three axes."""
    return Convolution(replace(setup, spec=as_convolution(setup.spec)))


@register("Pooling3D")
class Pooling3D(Layer):
    """MAX or AVE over windows of (N, C, D, H, W); the output size is rounded up, and windows may overhang.

    A pad counts in what an average is divided by, what lies beyond it does not.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param = volume_param(setup.spec, "pooling3d_param", "pooling_param")
        self.method = param.text("pool")
        self.kernel, self.stride, self.pad = pooling3d(setup.spec)
        if self.method == "STOCHASTIC":
            raise UnsupportedError(f"{setup.spec.label} (Pooling3D): C3D has no pool: STOCHASTIC")

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Pool (N, C, D, H, W)."""
        volume, out = bottoms[0], self.top_shapes(*bottoms)[0][2:]
        sizes = self.kernel, self.stride, self.pad, out
        if self.method == "MAX":
            return functional.max_pool3d(framed(volume, *sizes, LOWEST), self.kernel, self.stride)
        # Of zeros and ones: what the windows hold, and how much of each lies within the volume and its pad.
        inside = functional.pad(
            torch.ones_like(volume[:1, :1]), [p for p in self.pad[::-1] for _ in "ab"], value=1.0
        )
        bare = self.kernel, self.stride, (0, 0, 0), out
        held, counted = (
            functional.avg_pool3d(framed(of, *frame, 0.0), self.kernel, self.stride, divisor_override=1)
            for of, frame in ((volume, sizes), (inside, bare))
        )
        return held / counted
