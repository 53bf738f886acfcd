"""The rule of AMCT: which layers it decomposes, along which axes, at which rank.

The facts were recorded from AMCT's own code; `tests/data/amct-ranks` holds them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twofold.conv import ConvGeometry
from twofold.planning.evbmf import evbmf_rank

Vector = NDArray[np.float64]

AMCT_MULTIPLE = 16
"""AMCT's ranks are multiples of this, and at least this."""


@dataclass(frozen=True)
class AmctMode:
    """Along which axes AMCT splits a layer.

    Attributes:
        code: its name in AMCT: F or S C = the rank axis is joined with the first (C_out) or second
            (C_in) channel axis, F or S K = with the first (kH) or second (kW) kernel axis.
        variant: the same split as a variant of our scheme `spatial`: "hw" = kH x 1 first, "wh" = 1 x kW
            first.
    """

    code: str
    variant: str


def amct_rejection(geometry: ConvGeometry) -> str | None:
    """Say why AMCT leaves a layer alone; None if it decomposes it."""
    if geometry.layer_type != "convolution":
        return f"AMCT decomposes convolutions only, not a layer that is {geometry.layer_type}"
    if len(geometry.kernel) != 2:
        return f"AMCT knows two spatial axes, not {len(geometry.kernel)}"
    if geometry.groups != 1:
        return f"AMCT needs groups = 1, not {geometry.groups}"
    if max(geometry.dilation) != 1:
        return f"AMCT needs dilation 1, not {_by(geometry.dilation)}"
    if max(geometry.stride) > 2:
        return f"AMCT needs strides below 3, not {_by(geometry.stride)}"
    tap, channels = min(geometry.kernel), min(geometry.c_in, geometry.c_out)
    if tap < 3:
        return f"AMCT needs kernels larger than 2x2, not {_by(geometry.kernel)}"
    if tap < 7 and channels < 64:
        return f"AMCT needs 64 channels on both sides of a kernel below 7, not {channels}"
    if tap * channels < 16:
        return f"AMCT needs kernel x channels of at least 16, not {tap} x {channels}"
    return None


def amct_mode(geometry: ConvGeometry) -> AmctMode:
    """Choose the axes as AMCT does: the rank axis joins the smaller channel and kernel axis.

    In the unfolding's terms: an axis that is joined with C_in belongs to the first convolution, one that is
    joined with C_out to the second.
    """
    on_input = geometry.c_in <= geometry.c_out
    on_height = geometry.kernel[0] <= geometry.kernel[1]
    code = ("S" if on_input else "F") + "C" + ("F" if on_height else "S") + "K"
    return AmctMode(code, "hw" if on_input == on_height else "wh")


@dataclass(frozen=True)
class AmctRange:
    """AMCT's range of ranks of a layer, before rounding.

    Attributes:
        short: the shorter side of the unfolding, kernel axis times channels.
        long: its longer side.
        low: smallest rank.
        high: largest rank.
    """

    short: int
    long: int
    low: int
    high: int

    @classmethod
    def of(cls, geometry: ConvGeometry) -> AmctRange:
        """Compute the range from the layer's shape alone."""
        channels = min(geometry.c_in, geometry.c_out)
        short = channels * min(geometry.kernel)
        divisor = 4 if channels >= 256 else 6
        long = max(geometry.c_in, geometry.c_out) * max(geometry.kernel)
        return cls(short, long, short // (divisor + 1), short // divisor)

    @property
    def only_rank(self) -> int | None:
        """The rounded rank where both ends of the range round to it, so that no spectrum is needed."""
        return self.largest_rank if amct_round(self.low) == self.largest_rank else None

    @property
    def largest_rank(self) -> int:
        """The upper end, rounded."""
        return amct_round(self.high)


def amct_round(rank: int) -> int:
    """Round to the nearest multiple of 16, halves up, at least 16.

    If that is below 0.9 of the value, one step more.
    """
    rounded = max(AMCT_MULTIPLE, (rank + AMCT_MULTIPLE // 2) // AMCT_MULTIPLE * AMCT_MULTIPLE)
    return rounded + AMCT_MULTIPLE if rounded < 0.9 * rank else rounded


def amct_rank(geometry: ConvGeometry, singular_values: Vector) -> int:
    """Choose the rank as AMCT does.

    Args:
        geometry: a layer that `amct_rejection` lets pass.
        singular_values: all singular values of the weight unfolded along `amct_mode`, in any order.

    Returns:
        EVBMF's rank, clamped to the range of the shape and rounded. Nothing makes sure that it is cheaper.
    """
    allowed = AmctRange.of(geometry)
    rank = evbmf_rank(singular_values, (allowed.short, allowed.long), thorough=False)
    return amct_round(min(max(rank, allowed.low), allowed.high))


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
