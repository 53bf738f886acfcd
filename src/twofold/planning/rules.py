"""The rules of the reference (AMCT): which layers, along which axes, at which rank; and EVBMF, on which they rest.

The facts were recorded from the reference's own code; `tests/data/amct-ranks` holds them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from twofold.conv import ConvGeometry

Vector = NDArray[np.float64]

AMCT_MULTIPLE = 16
"""The reference's ranks are multiples of this, and at least this."""


@dataclass(frozen=True)
class AmctMode:
    """Along which axes the reference splits a layer.

    Attributes:
        code: its name in the reference: F or S C = the rank axis is joined with the first (C_out) or second (C_in)
            channel axis, F or S K = with the first (kH) or second (kW) kernel axis.
        variant: the same split as a variant of our scheme `spatial`: "hw" = kH x 1 first, "wh" = 1 x kW first.
    """

    code: str
    variant: str


def amct_refusal(geometry: ConvGeometry) -> str | None:
    """Say why the reference leaves a layer alone; None if it decomposes it."""
    if len(geometry.kernel) != 2:
        return f"the reference knows two spatial axes, not {len(geometry.kernel)}"
    if geometry.groups != 1:
        return f"the reference needs groups = 1, not {geometry.groups}"
    if max(geometry.dilation) != 1:
        return f"the reference needs dilation 1, not {_by(geometry.dilation)}"
    if max(geometry.stride) > 2:
        return f"the reference needs strides below 3, not {_by(geometry.stride)}"
    tap, channels = min(geometry.kernel), min(geometry.c_in, geometry.c_out)
    if tap < 3:
        return f"the reference needs kernels larger than 2x2, not {_by(geometry.kernel)}"
    if tap < 7 and channels < 64:
        return f"the reference needs 64 channels on both sides of a kernel below 7, not {channels}"
    if tap * channels < 16:
        return f"the reference needs kernel x channels of at least 16, not {tap} x {channels}"
    return None


def amct_mode(geometry: ConvGeometry) -> AmctMode:
    """Choose the axes as the reference does: the rank axis joins the smaller channel and the smaller kernel axis.

    In the unfolding's terms: an axis that is joined with C_in belongs to the first convolution, one that is
    joined with C_out to the second.
    """
    on_input = geometry.c_in <= geometry.c_out
    on_height = geometry.kernel[0] <= geometry.kernel[1]
    code = ("S" if on_input else "F") + "C" + ("F" if on_height else "S") + "K"
    return AmctMode(code, "hw" if on_input == on_height else "wh")


@dataclass(frozen=True)
class AmctRange:
    """The reference's range of ranks of a layer, before rounding.

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
        low, high = amct_round(self.low), amct_round(self.high)
        return low if low == high else None


def amct_round(rank: int) -> int:
    """Round to the nearest multiple of 16, halves up, at least 16; one step more if that is below 0.9 of the value."""
    rounded = max(AMCT_MULTIPLE, (rank + AMCT_MULTIPLE // 2) // AMCT_MULTIPLE * AMCT_MULTIPLE)
    return rounded + AMCT_MULTIPLE if rounded < 0.9 * rank else rounded


def amct_rank(geometry: ConvGeometry, singular_values: Vector) -> int:
    """Choose the rank as the reference does.

    Args:
        geometry: a layer that `amct_refusal` lets pass.
        singular_values: all singular values of the weight unfolded along `amct_mode`, in any order.

    Returns:
        EVBMF's rank, clamped to the range of the shape and rounded. Nothing makes sure that it is cheaper.
    """
    allowed = AmctRange.of(geometry)
    rank = evbmf_rank(singular_values, (allowed.short, allowed.long), thorough=False)
    return amct_round(min(max(rank, allowed.low), allowed.high))


def evbmf_rank(singular_values: Vector, shape: tuple[int, int], *, thorough: bool = True) -> int:
    """Count the singular values above noise, by empirical variational Bayesian matrix factorization.

    The noise variance is the minimiser of the free energy; a singular value counts if it exceeds
    sqrt(M v (1 + t)(1 + a / t)) for noise variance v, aspect a = L / M and t = 2.5129 sqrt(a).

    Args:
        singular_values: all min(shape) of them, in any order.
        shape: (rows, columns) of the matrix.
        thorough: look at the whole interval of variances first, independent of scale. The free energy can have
            several minima; the reference's bounded Brent search ends in any of them, as decided by its absolute
            tolerance (1e-5) and so by the scale of the weights. `thorough=False` reproduces it.

    Returns:
        The rank, possibly 0.

    Raises:
        ValueError: if the number of singular values does not fit the shape.

    Source: Nakajima, Sugiyama, Babacan and Tomioka, Global analytic solution of fully-observed variational
    Bayesian matrix factorization, JMLR 14 (2013), theorems 2 and 3 and section 5.2.
    """
    rows, columns = min(shape), max(shape)
    if len(singular_values) != rows:
        raise ValueError(f"a {rows} x {columns} matrix has {rows} singular values, not {len(singular_values)}")
    squares = np.sort(np.asarray(singular_values, np.float64))[::-1] ** 2
    if squares[0] <= 0:
        return 0
    if thorough:  # the search has an absolute tolerance, which must not depend on the scale of the weights
        squares = squares / squares[0]
    aspect = rows / columns
    tau = 2.5129 * math.sqrt(aspect)
    threshold = (1 + tau) * (1 + aspect / tau)
    low, high = _variance_bounds(squares, rows, columns, threshold)
    if not low < high:  # all singular values equal, or all beyond the first few zero: nothing to search
        return int(np.count_nonzero(squares > columns * high * threshold))

    def energy(variance: float) -> float:
        return _free_energy(squares / (columns * variance), aspect, threshold)

    if thorough:
        grid = np.geomspace(max(low, high * 1e-12), high, 400)
        best = int(np.argmin([energy(v) for v in grid.tolist()]))
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    variance = float(minimize_scalar(energy, bounds=(low, high), method="bounded").x)
    return int(np.count_nonzero(squares > columns * variance * threshold))


def _variance_bounds(squares: Vector, rows: int, columns: int, threshold: float) -> tuple[float, float]:
    """Bounds of the noise variance: corollary 1 and equation (23) of the paper, for a matrix without residual."""
    largest_rank = max(0, min(math.ceil(rows / (1 + rows / columns)) - 1, rows) - 1)
    tail = squares[largest_rank + 1 :]
    high = float(squares.sum()) / (rows * columns)
    if not len(tail):
        return high, high
    return max(float(tail[0]) / (columns * threshold), float(tail.mean()) / columns), high


def _free_energy(x: Vector, aspect: float, threshold: float) -> float:
    """Free energy up to constants, as a function of x = s^2 / (M variance): equations (24) to (27) of the paper."""
    signal, noise = x[x > threshold], x[x <= threshold]
    noise = np.maximum(noise, np.finfo(np.float64).tiny)  # exact zeros of rank-deficient weights
    centred = signal - (1 + aspect)
    tau = 0.5 * (centred + np.sqrt(centred**2 - 4 * aspect))
    total = np.sum(noise - np.log(noise)) + np.sum(signal - tau)
    total += np.sum(np.log((tau + 1) / signal)) + aspect * np.sum(np.log(tau / aspect + 1))
    return float(total)


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
