"""EVBMF: how many singular values of a matrix stand above its noise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

Vector = NDArray[np.float64]


def evbmf_rank(singular_values: Vector, shape: tuple[int, int], *, thorough: bool = True) -> int:
    """Count the singular values above noise, by empirical variational Bayesian matrix factorization.

    The noise variance is the minimiser of the free energy; a singular value counts if it exceeds
    sqrt(M v (1 + t)(1 + a / t)) for noise variance v, aspect a = L / M and t = 2.5129 sqrt(a).

    Args:
        singular_values: all min(shape) of them, in any order.
        shape: (rows, columns) of the matrix.
        thorough: look at the whole interval of variances first, independent of scale. The free energy can
            have several minima; a bounded Brent search ends in any of them, as decided by its
            absolute tolerance (1e-5) and so by the scale of the weights. `thorough=False` reproduces it.

    Returns:
        The rank, possibly 0.

    Raises:
        ValueError: if the number of singular values does not fit the shape.

    Source: Nakajima, Sugiyama, Babacan and Tomioka, Global analytic solution of fully-observed variational
    Bayesian matrix factorization, JMLR 14 (2013), theorems 2 and 3 and section 5.2.
    """
    rows, columns = min(shape), max(shape)
    if len(singular_values) != rows:
        raise ValueError(
            f"a {rows} x {columns} matrix has {rows} singular values, not {len(singular_values)}"
        )
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
    """Bounds of the noise variance, for a matrix without residual: corollary 1 of the paper."""
    largest_rank = max(0, min(math.ceil(rows / (1 + rows / columns)) - 1, rows) - 1)
    tail = squares[largest_rank + 1 :]
    high = float(squares.sum()) / (rows * columns)
    if not len(tail):
        return high, high
    return max(float(tail[0]) / (columns * threshold), float(tail.mean()) / columns), high


def _free_energy(x: Vector, aspect: float, threshold: float) -> float:
    """Free energy up to constants, as a function of x = s^2 / (M variance): theorem 3 of the paper."""
    signal, noise = x[x > threshold], x[x <= threshold]
    noise = np.maximum(noise, np.finfo(np.float64).tiny)  # exact zeros of rank-deficient weights
    centred = signal - (1 + aspect)
    tau = 0.5 * (centred + np.sqrt(centred**2 - 4 * aspect))
    total = np.sum(noise - np.log(noise)) + np.sum(signal - tau)
    total += np.sum(np.log((tau + 1) / signal)) + aspect * np.sum(np.log(tau / aspect + 1))
    return float(total)
