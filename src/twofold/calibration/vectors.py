"""Moments of layers that are over the memory limit: no matrix of their inputs' size.

Only the scheme `channel` takes a layer whose kernel has one tap: a fully connected layer, a 1x1 convolution.
Of a layer that is long on one axis other schemes need the covariance along it, which may be too large itself:
with 64 taps and 1024 channels it takes 34 GB. All that `channel` needs is the covariance of the outputs,
which another pass over the inputs gathers. The first pass is left with the mean, the variances, and for a
fully connected layer how far its covariance S is drawn towards the identity (see `shrink`). That takes
tr S^2, which is had without S from the vectors themselves:

    tr S^2 = sum over i, j of ((x_i - m)^T (x_j - m))^2 / n^2.

At most `_KEPT` of them are kept, spread evenly; where there are more, means over the pairs of the same and of
different vectors stand for those over all.
"""

from __future__ import annotations

import numpy as np

from twofold.calibration.shrink import shrinkage
from twofold.calibration.statistics import (
    PatchSampler,
    StatisticsOptions,
    channels_first,
    covariance_bytes,
    patch_size,
    strips_bytes,
)
from twofold.conv import Array, ConvGeometry, LayerStatistics
from twofold.errors import InputError

_KEPT = 1024


def one_tap(geometry: ConvGeometry) -> bool:
    """Whether only the scheme `channel` takes a layer."""
    return max(geometry.kernel) == 1


def outputs_bytes(geometry: ConvGeometry) -> int:
    """Bytes of what another pass gathers of a layer with one tap: two matrices as wide as its outputs."""
    return 16 * geometry.c_out**2 // geometry.groups


def another_pass_fits(geometry: ConvGeometry, memory: int, strips: int) -> bool:
    """Whether another pass over the inputs can stand for the covariance of a layer over the limit.

    Args:
        geometry: the layer's.
        memory: bytes that covariances may take.
        strips: bytes that strips may take.
    """
    if not one_tap(geometry) and strips_bytes(geometry) <= strips:
        return True
    alone = sum(k > 1 for k in geometry.kernel) <= 1  # else the scheme `spatial` takes it, too
    return alone and outputs_bytes(geometry) <= memory


def over_the_limit(geometry: ConvGeometry, options: StatisticsOptions) -> bool:
    """Whether memory allows neither a layer's covariance, nor strips that could stand for it."""
    if options.memory is None or covariance_bytes(geometry) <= options.memory:
        return False
    return one_tap(geometry) or (options.strips is not None and strips_bytes(geometry) > options.strips)


class VectorAccumulator:
    """Gathers the `LayerStatistics` of one layer without its covariance."""

    full = False

    def __init__(self, geometry: ConvGeometry, options: StatisticsOptions) -> None:
        self._geometry, self._sampler = geometry, PatchSampler(geometry, options)
        self.count = 0
        self._shift: Array | None = None
        self._sum, self._squares = np.zeros((2, patch_size(geometry)))
        self._kept: list[Array] = []
        self._step = 1

    def update(self, x: Array) -> None:
        """Look at a batch (N, C_in, *size) of the layer's inputs.

        Raises:
            InputError: the batch does not fit the geometry.
        """
        for patches in self._sampler.chunks(x):
            X = patches.reshape(len(patches), -1)
            with np.errstate(invalid="ignore", over="ignore"):  # not finite: said by whoever uses the result
                if self._shift is None:
                    self._shift = X.mean(axis=0)
                X -= self._shift
                self._sum += X.sum(axis=0, dtype=np.float64)
                self._squares += np.square(X).sum(axis=0, dtype=np.float64)
            if not self._geometry.semantics.spatial:
                self._keep(X)
            self.count += len(X)

    def _keep(self, X: Array) -> None:
        """Keep the vectors whose number is a multiple of the step, which doubles where they are too many."""
        self._kept += [row.copy() for row in X[-self.count % self._step :: self._step]]
        while len(self._kept) > _KEPT:
            self._kept, self._step = self._kept[::2], 2 * self._step

    def result(self) -> LayerStatistics:
        """Return the moments of everything that was seen.

        Raises:
            InputError: nothing was seen.
        """
        if self._shift is None:
            raise InputError("no patch was seen: there were no inputs, or they are smaller than the kernel")
        with np.errstate(invalid="ignore", over="ignore"):  # not finite: said by whoever uses the result
            m = self._sum / self.count
            variances = self._squares / self.count - m**2
            shrinkage = self._shrinkage(m, float(variances.sum())) if self._kept else 0.0
        g = self._geometry
        shape = (g.c_in, *g.kernel)
        of_taps = channels_first(variances, g).reshape(shape)
        others = [tuple(a for a in range(1, len(shape)) if a != axis) for axis in range(1, len(shape))]
        strips = tuple(of_taps.sum(axis=axes).ravel() for axes in others)
        mean = channels_first(self._shift + m, g)
        return LayerStatistics(self.count, mean, None, strips, shrinkage=shrinkage)

    def _shrinkage(self, m: Array, trace: float) -> float:
        X, n = np.stack(self._kept) - m.astype(np.float32), self.count
        products = np.square((X @ X.T).astype(np.float64))
        same, k = float(np.trace(products)), len(X)
        others = (float(products.sum()) - same) / max(k * (k - 1), 1)
        return shrinkage(n, len(m), trace, same / k / n + (1 - 1 / n) * others)
