"""The covariance of patches, as far as what is known along each axis of the kernel tells it.

Of a layer over the memory limit the covariance C (d, d) of its patches is not here, but the strips are: the
covariance along each axis alone, channels included. Let R = L L^T be that of the channels at one tap, and
A_a = (L^-1 x I) strip_a (L^-T x I) what strip a is where channels are made white (x is the Kronecker
product). For patches whose axes do not interact, as those of a separable random field,

    C = G G^T,    G = L S_1 S_2 ... S_m,    A_a = S_a S_a,

each S_a symmetric, and applied over the channels and along its axis. For other patches it is a model,
positive semidefinite whatever the strips are; for one axis it is C itself. Behind a ReLU, terms that were
fitted to it lost at most 14 % more energy than those fitted to C; where channels and taps are taken not to
interact, up to 3.5 times as much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from twofold.conv import Array, ConvGeometry, ConvLayer, LayerStatistics
from twofold.lowrank.assemble import checked_weight
from twofold.lowrank.covariance import strip_covariance
from twofold.lowrank.regression import ridged_cholesky
from twofold.lowrank.separable import Terms
from twofold.lowrank.spectra import eigen_descending
from twofold.lowrank.unfold import Split

#: Of the mean variance, added to that of channels: some never vary.
_RIDGE = 1e-6


@dataclass(frozen=True, eq=False)
class StripCovariance:
    """The model and a multiple of the identity; see `separable.Covariance`.

    Attributes:
        kernel: the kernel's sizes.
        channels: L (C_in, C_in).
        along: S_a (C_in * kernel[a], C_in * kernel[a]) by axis, for those with more than one tap.
        marginals: of channels and of taps; the taps of different axes as if they did not interact.
        shift: the multiple of the identity.
    """

    kernel: tuple[int, ...]
    channels: Array
    along: dict[int, Array]
    marginals: tuple[Array, Array]
    shift: float

    @classmethod
    def of(cls, statistics: LayerStatistics, geometry: ConvGeometry, shift: float) -> StripCovariance:
        """Read the strips of a layer without groups.

        Raises:
            OptionError: the strips were over the memory limit, too.
        """
        kernel, c_in = geometry.kernel, geometry.c_in
        split = Split((), tuple(range(len(kernel))))
        R = strip_covariance(statistics, geometry, split) / split.taps(geometry)
        variance = float(np.trace(R)) / c_in
        L, _ = ridged_cholesky("", lambda ridge: R + ridge * variance * np.eye(c_in), _RIDGE)
        along = dict[int, Array]()
        taps = np.ones((1, 1))
        for axis, (k, summed) in enumerate(zip(kernel, statistics.strips, strict=True)):
            strip = summed * (k / split.taps(geometry))
            blocks = strip.reshape(c_in, k, c_in, k)
            taps = np.kron(taps, np.einsum("aiaj->ij", blocks) / (c_in * variance))
            if k > 1:
                along[axis] = _root(_white(L, _white(L, strip).T))
        return cls(kernel, L, along, (R, taps), shift)

    def times(self, X: Array) -> Array:
        """Return C X for X (d, n), in the dtype of X."""
        L = self.channels.astype(X.dtype, copy=False)
        roots = [(axis, S.astype(X.dtype, copy=False)) for axis, S in self.along.items()]
        Y: Array = (L.T @ X.reshape(len(L), -1)).reshape(len(L), *self.kernel, -1)
        for axis, S in roots:
            Y = _apply(S.T, Y, axis)
        for axis, S in reversed(roots):
            Y = _apply(S, Y, axis)
        return (L @ Y.reshape(len(L), -1)).reshape(X.shape) + X.dtype.type(self.shift) * X

    def times_terms(self, terms: Terms) -> Array:
        """Return C Z (d, r), in the dtype of the terms."""
        return self.times(terms.filters)

    def release(self) -> None:
        """Nothing is held."""


def modelled_energy(layer: ConvLayer, statistics: LayerStatistics) -> float:
    """Variance of the outputs of a layer without groups, tr(W C W^T), as the model has it."""
    W = checked_weight(layer).reshape(layer.geometry.c_out, -1).astype(np.float64)
    return float(np.sum(W.T * StripCovariance.of(statistics, layer.geometry, 0.0).times(W.T)))


def _root(A: Array) -> Array:
    """Symmetric S with S S = A; what rounding makes negative, where the channels hardly vary, is left out."""
    values, vectors = eigen_descending((A + A.T) / 2)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def _white(L: Array, strip: Array) -> Array:
    """(L^-1 x I) applied to the rows of a strip."""
    rows = strip.reshape(len(L), -1)
    return scipy.linalg.solve_triangular(L, rows, lower=True, check_finite=False).reshape(strip.shape)


def _apply(S: Array, Y: Array, axis: int) -> Array:
    """S over the channels and along one axis of Y (C_in, *kernel, n)."""
    moved = np.moveaxis(Y, 1 + axis, 1)
    applied = (S @ moved.reshape(len(S), -1)).reshape(moved.shape)
    return np.moveaxis(applied, 1, 1 + axis)
