"""Transposed convolutions: each input position adds the kernel to an output that is finer by the stride.

What the output at position u gets through tap k comes from the input position (u + pad - dilation * k) /
stride, if there is one. Frameworks have the weight with its channels exchanged: (C_in, C_out / groups,
*kernel).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .convolution import tap_places
from .geometry import Array, ConvGeometry, LayerType, Size


class Transposed(LayerType):
    """A transposed convolution."""

    name, words = "transposed", "a transposed convolution"
    per_input = True

    def rejection(self, geometry: ConvGeometry) -> str | None:
        return None

    def output_size(self, geometry: ConvGeometry, input_size: Size) -> Size:
        return tuple(
            max(0, (size - 1) * s - before - after + d * (k - 1) + 1 + more)
            for size, (before, after), k, s, d, more in zip(
                input_size, geometry.pad, geometry.kernel, geometry.stride, geometry.dilation,
                geometry.output_padding, strict=True,
            )
        )  # fmt: skip

    def patches(self, image: Array, geometry: ConvGeometry) -> tuple[Array, Size, list[Size]]:
        """Those of a convolution without stride over the image with stride - 1 zeros between its pixels.

        Its taps are in reverse, and its pads are what those of this one leave of the kernel's reach.
        """
        size = tuple((n - 1) * s + 1 for n, s in zip(image.shape[:-1], geometry.stride, strict=True))
        wide = np.zeros((*size, image.shape[-1]), image.dtype)
        wide[tuple(slice(None, None, s) for s in geometry.stride)] = image
        reach = [d * (k - 1) for d, k in zip(geometry.dilation, geometry.kernel, strict=True)]
        pads = [
            (r - before, r - after + more)
            for r, (before, after), more in zip(reach, geometry.pad, geometry.output_padding, strict=True)
        ]
        # Pads beyond the reach cut off what they would add.
        wide = wide[tuple(slice(max(0, -b), n - max(0, -a)) for n, (b, a) in zip(size, pads, strict=True))]
        padded = np.pad(wide, (*((max(0, b), max(0, a)) for b, a in pads), (0, 0)))
        return padded, (1,) * len(size), tap_places(geometry)[::-1]

    def factor(self, own: Sequence[bool]) -> str:
        """A convolution where no axis is left: at one tap there is no difference."""
        return self.name if any(own) else "convolution"

    def window(self, geometry: ConvGeometry) -> str:
        return f"{super().window(geometry)} {self.name}"

    def stored_shape(self, geometry: ConvGeometry) -> Size:
        return (geometry.c_in, geometry.c_out // geometry.groups, *geometry.kernel)

    def stored(self, weight: Array, geometry: ConvGeometry) -> Array:
        return super().stored(_exchanged(weight, geometry.groups), geometry)

    def canonical(self, array: Array, geometry: ConvGeometry) -> Array:
        return _exchanged(array.reshape(self.stored_shape(geometry)), geometry.groups)


def _exchanged(weight: Array, groups: int) -> Array:
    """Exchange the channels of the outer and the inner axis, group by group."""
    outer, inner, *kernel = weight.shape
    split = weight.reshape(groups, outer // groups, inner, *kernel).swapaxes(1, 2)
    return split.reshape(groups * inner, outer // groups, *kernel)
