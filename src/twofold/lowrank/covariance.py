"""The covariance of a layer's input patches, as the fits use it: by strips, projected, applied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from twofold.conv import Array, ConvGeometry, ConvLayer, LayerStatistics
from twofold.device import Held, product
from twofold.errors import ModelError, OptionError
from twofold.lowrank.unfold import Split

#: Patches of so many values are refined in float64.
DOUBLE = 512


def check_statistics(layer: ConvLayer, statistics: LayerStatistics) -> None:
    """Raise ModelError where statistics belong to another geometry, hold nothing, or are not finite."""
    geometry = layer.geometry
    d = geometry.params // geometry.c_out
    sides = [s.shape[0] for s in statistics.strips]
    full = d if statistics.covariance is None else statistics.covariance.shape[0]
    if statistics.mean.shape != (d,) or full != d or sides != [geometry.c_in * k for k in geometry.kernel]:
        raise ModelError(
            f"{layer.name}: its statistics have patches of {statistics.mean.size} values (strips {sides}),"
            f" the layer has {d}; gather them for this model"
        )
    if statistics.count < 1:
        raise ModelError(f"{layer.name}: its statistics hold no patches; give calibration inputs")
    arrays = (statistics.mean, statistics.covariance, *statistics.strips)
    if not all(a is None or np.isfinite(a).all() for a in arrays):
        raise ModelError(
            f"{layer.name}: its statistics are not finite; the inputs or an earlier layer overflowed"
        )


def strip_covariance(statistics: LayerStatistics, geometry: ConvGeometry, split: Split) -> Array:
    """Covariance over the first convolution's axes, summed over the taps of the second: (rows, rows).

    From the strips alone, so that layers over the memory limit have it too; hence at most one axis may belong
    to the first convolution.

    Raises:
        OptionError: the strips were over the memory limit, too.
    """
    if statistics.strips[0].ndim == 1:
        raise OptionError(
            "covariances along one axis of a kernel are over the memory limit: leave such layers to the "
            "scheme 'channel', or use weights only"
        )
    if len(split.first) == 1:
        return np.array(statistics.strips[split.first[0]], dtype=np.float64)
    if not split.first:
        k = geometry.kernel[0]
        blocks = statistics.strips[0].reshape(geometry.c_in, k, geometry.c_in, k)
        return np.asarray(np.einsum("ihjh->ij", blocks), dtype=np.float64)
    raise AssertionError("Bug: a first convolution over several axes needs the full covariance")


@dataclass(frozen=True, eq=False)
class PatchCovariance:
    """A full covariance plus `shift` on its diagonal, seen through one split of the kernel's axes.

    Attributes:
        matrix: (d, d), in the weight's order (C_in, *kernel).
        shift: what is added to the diagonal.
    """

    matrix: Array
    shift: float
    geometry: ConvGeometry
    split: Split

    def apply(self, X: Array) -> Array:
        """Return C X for X (d, n)."""
        applied: Array = self._held @ X + self.shift * X
        return applied

    @cached_property
    def _held(self) -> Held:
        return Held(self.matrix)

    def energy(self, X: Array) -> float:
        """Return tr(X^T C X), the variance of the output of a convolution with weight X^T, for X (d, n)."""
        return float(np.sum(X * self.apply(X)))

    def _taps(self, array: Array, axes: int) -> Array:
        """View each of the leading `axes` patch axes as (C_in, first axes) and (second axes)."""
        kernel, n = self.geometry.kernel, 1 + len(self.geometry.kernel)
        shape = (self.geometry.c_in, *kernel)
        view = array.reshape(shape * axes + array.shape[axes:])
        inner = (0, *(1 + a for a in self.split.first), *(1 + a for a in self.split.second))
        order = [axis + n * i for i in range(axes) for axis in inner]
        return view.transpose(*order, *range(n * axes, view.ndim))

    def tap_block(self, b: int, c: int) -> Array:
        """Covariance between the strips at taps b and c of the second convolution: a copy (rows, rows)."""
        sizes = tuple(self.geometry.kernel[a] for a in self.split.second)
        lead = (slice(None),) * (1 + len(self.split.first))
        rows = self.split.rows(self.geometry)
        index: Any = (*lead, *np.unravel_index(b, sizes), *lead, *np.unravel_index(c, sizes))
        view = self._taps(self.matrix, 2)[index]
        block = np.array(view, dtype=np.float64).reshape(rows, rows)
        if b == c:
            block.flat[:: rows + 1] += self.shift
        return block

    def by_taps(self, dtype: type[np.floating]) -> Array:
        """A copy (taps, rows, taps * rows), the taps of the second convolution first."""
        rows, taps = self.split.rows(self.geometry), self.split.taps(self.geometry)
        n = 1 + len(self.split.first)
        view = self._taps(self.matrix, 2)
        inner = (*range(n, n + len(self.split.second)), *range(n))
        order = (*inner, *(axis + view.ndim // 2 for axis in inner))
        found = view.transpose(order).astype(dtype, order="C").reshape(taps * rows, -1)
        found.flat[:: len(found) + 1] += dtype(self.shift)
        return found.reshape(taps, rows, -1)

    def projected(self, V: Array) -> Array:
        """Covariance of z, the first convolution's output under the second's kernel.

        Args:
            V: (rows, r).

        Returns:
            (r * taps, r * taps); rank-major, so that the leading blocks belong to the smaller ranks.
        """
        r, taps = V.shape[1], self.split.taps(self.geometry)
        S = np.empty((r, taps, r, taps))
        for b in range(taps):
            for c in range(b, taps):
                S[:, b, :, c] = product(V.T, product(self.tap_block(b, c), V))
                S[:, c, :, b] = S[:, b, :, c].T
        return S.reshape(r * taps, r * taps)

    def project(self, X: Array, V: Array) -> Array:
        """Apply the first convolution to patches: X (d, n) becomes (r * taps, n), rank-major."""
        n = X.shape[1]
        strips = self._taps(X, 1).reshape(V.shape[0], -1)
        return product(V.T, strips).reshape(-1, n)
