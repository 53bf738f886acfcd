"""Covariances of few samples, drawn towards what few samples can tell.

The covariance S of a layer's patches comes from positions that are not independent: those of one picture look
alike. Fits to it believe that what these pictures do not show never comes. So it is drawn towards a simpler
covariance T of the same trace, whose few parameters are well known,

    (1 - a) S + a T,    T = C x K,    C = (1 - b) c + b m I,

where c (C_in x C_in) and K (taps x taps) are the covariances of channels and of taps, each averaged over the
other, x is the Kronecker product, and m = tr c / C_in. A layer whose kernel has one tap has
T = C alone, fully connected ones among them.

**How many samples these are.** For n independent normal vectors, E||S - Sigma||^2 = (tr(Sigma)^2 +
tr(Sigma^2)) / n. The left side is measured, by how much the batches differ from each other, and the equation
gives the n that stands for the positions: in late layers of a classifier a few per picture.

**How far.** b is the share that is best in the mean square for n normal vectors (Chen, Wiesel, Eldar and
Hero, 2010, "Shrinkage algorithms for MMSE covariance estimation", equation 23, "oracle approximating").
a is the share of Ledoit and Wolf (2004, "A well-conditioned estimator for large-dimensional covariance
matrices", theorem 2.1), in the coordinates in which T is the identity, since what is small in S matters as
much as what is large: with A = T^-1/2 S T^-1/2,

    a = (tr(A)^2 + tr(A^2)) / n / ||A - I||^2.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy.linalg import solve_triangular

from ..conv import Array, ConvGeometry, LayerStatistics
from .statistics import strips_of

#: Of the mean variance, so that factors of T exist where a channel or a tap sees nothing.
_RIDGE = 1e-6


def shrunk(statistics: LayerStatistics, geometry: ConvGeometry) -> LayerStatistics:
    """The statistics of a layer with its full covariance shrunk; without one, as they are."""
    if statistics.covariance is None:
        return statistics
    taps = math.prod(geometry.kernel)
    whole = statistics.covariance
    d = whole.shape[-1]
    # A fully connected layer sees one vector per picture where a net ends in it.
    n = statistics.independent if geometry.meaning.spatial else statistics.count
    found = np.stack([_shrunk(S, taps, n) for S in whole.reshape(-1, d, d)])
    each = [strips_of(S, replace(geometry, groups=1, c_in=d // taps)) for S in found]
    strips = tuple(np.stack(of_axis) for of_axis in zip(*each, strict=True))
    if whole.ndim == 2:
        return replace(statistics, covariance=found[0], strips=tuple(strip[0] for strip in strips))
    return replace(statistics, covariance=found, strips=strips)


def _shrunk(S: Array, taps: int, n: float) -> Array:
    """One covariance (C_in * taps,) * 2 from what stands for n independent vectors."""
    d = len(S)
    channels = d // taps
    blocks = S.reshape(channels, taps, channels, taps)
    C = np.einsum("aibi->ab", blocks) / taps
    trace = float(np.trace(C))
    if not trace > 0:
        return S
    share = shrinkage(n, channels, trace, float(np.sum(C**2)))
    C = (1 - share) * C
    C.flat[:: channels + 1] += share * trace / channels
    if taps == 1:
        return np.asarray(C)
    K = np.einsum("aiaj->ij", blocks) / trace
    share = product_share(S, C, K, n)
    found = (1 - share) * S
    view = found.reshape(channels, taps, channels, taps)
    for i, j in np.ndindex(taps, taps):
        view[:, i, :, j] += share * K[i, j] * C
    return found


def shrinkage(n: float, d: int, trace: float, squares: float) -> float:
    """The share of the identity that is best for a d x d covariance of n normal vectors: tr S, tr S^2."""
    spread = (n + 1 - 2 / d) * (squares - trace**2 / d)
    return min(1.0, ((1 - 2 / d) * squares + trace**2) / spread) if spread > 0 else 1.0


def product_share(S: Array, C: Array, K: Array, n: float) -> float:
    """The share of C x K that is best for a covariance S of n normal vectors."""
    A = _half_whitened(_half_whitened(S, C, K).T, C, K)
    d, trace, squares = len(S), float(np.trace(A)), float(np.sum(A**2, dtype=np.float64))
    distance = squares - 2 * trace + d
    return min(1.0, (trace**2 + squares) / n / distance) if distance > 0 else 1.0


def _half_whitened(S: Array, C: Array, K: Array) -> Array:
    """L^-1 S, where L L^T is C x K. Float32 serves: the share needs two digits."""
    by_channels, by_taps = (_inverse_factor(M) for M in (C, K))
    part = by_channels @ S.astype(np.float32, copy=False).reshape(len(C), -1)
    part = by_taps @ part.reshape(len(C), len(K), -1)
    whole: Array = part.reshape(S.shape)
    return whole


def _inverse_factor(M: Array) -> Array:
    ridge = _RIDGE * float(np.trace(M)) / len(M)
    L = np.linalg.cholesky(M + ridge * np.eye(len(M)))
    inverse: Array = solve_triangular(L, np.eye(len(M)), lower=True).astype(np.float32)
    return inverse
