"""Covariances of fully connected layers, which see few vectors: one per picture where a net ends in them.

The covariance S of n vectors of d values has rank n at most, and a fit to it believes that nothing else ever
comes. So it is drawn towards the multiple of the identity with the same trace,

    C = (1 - a) S + a m I,    m = tr S / d,

with the share a that is best in the mean square for normal vectors (Chen, Wiesel, Eldar and Hero, 2010,
"Shrinkage algorithms for MMSE covariance estimation", equation 23: oracle approximating shrinkage):

    a = ((1 - 2/d) tr S^2 + (tr S)^2) / ((n + 1 - 2/d) (tr S^2 - (tr S)^2 / d)), at most 1.

With n much larger than d nothing changes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..conv import LayerStatistics


def shrinkage(n: int, d: int, trace: float, squares: float) -> float:
    """The share a, from tr S and tr S^2."""
    spread = (n + 1 - 2 / d) * (squares - trace**2 / d)
    return min(1.0, ((1 - 2 / d) * squares + trace**2) / spread) if spread > 0 else 1.0


def shrunk(statistics: LayerStatistics) -> LayerStatistics:
    """The statistics of a fully connected layer, with its covariance shrunk."""
    S = statistics.covariance
    if S is None:  # `vectors` says how far, and the fit does it
        return statistics
    share = shrinkage(statistics.count, len(S), float(np.trace(S)), float(np.sum(S**2)))
    C = (1 - share) * S
    C.flat[:: len(C) + 1] += share * float(np.trace(S)) / len(S)
    return replace(statistics, covariance=C, strips=(C,))
