"""Convolutions: the sum of what stands under the kernel, which moves by the stride."""

from __future__ import annotations

import itertools

import numpy as np

from .geometry import Array, ConvGeometry, LayerType, Size


class Convolution(LayerType):
    """A convolution over any number of axes."""

    name, words = "convolution", "a convolution"

    def output_size(self, geometry: ConvGeometry, input_size: Size) -> Size:
        return tuple(
            max(0, (size + before + after - (d * (k - 1) + 1)) // s + 1)
            for size, (before, after), k, s, d in zip(
                input_size, geometry.pad, geometry.kernel, geometry.stride, geometry.dilation, strict=True
            )
        )

    def patches(self, image: Array, geometry: ConvGeometry) -> tuple[Array, Size, list[Size]]:
        return np.pad(image, (*geometry.pad, (0, 0))), geometry.stride, tap_places(geometry)


def tap_places(geometry: ConvGeometry) -> list[Size]:
    """Where the taps of a dense kernel are, in the weight's order, from the first one."""
    axes = zip(geometry.kernel, geometry.dilation, strict=True)
    return list(itertools.product(*(range(0, k * d, d) for k, d in axes)))
