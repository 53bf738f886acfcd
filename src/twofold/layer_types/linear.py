"""Fully connected layers: a convolution with one tap along one axis, the positions at which it is used.

The weight is (C_out, C_in, 1), the inputs are (C_in, positions). Frameworks have the weight as (C_out, C_in),
and give vectors (N, ..., C_in), one or more in each sample.
"""

from __future__ import annotations

from typing import Any

from .convolution import Convolution
from .geometry import ConvGeometry, Size


class Linear(Convolution):
    """A fully connected layer."""

    name, words = "linear", "a fully connected layer"
    spatial = False

    def rejection(self, geometry: ConvGeometry) -> str | None:
        g = geometry
        plain = (g.kernel, g.stride, g.pad, g.dilation, g.groups) == ((1,), (1,), ((0, 0),), (1,), 1)
        return super().rejection(g) or (None if plain else f"{self.words} has one tap along one axis")

    def window(self, geometry: ConvGeometry) -> str:
        return self.name

    def stored_shape(self, geometry: ConvGeometry) -> Size:
        return geometry.c_out, geometry.c_in

    def images(self, values: Any) -> Any:
        """Vectors (N, ..., C) as (N, C, positions).

        Where there is but one in each sample, the samples are the positions of one image.
        """
        if values.ndim < 3:
            return values.reshape(-1, values.shape[-1]).T[None]
        return values.reshape(len(values), -1, values.shape[-1]).swapaxes(1, 2)

    def values(self, images: Any, like: Any) -> Any:
        return images.swapaxes(1, 2).reshape(*like.shape[:-1], images.shape[1])
