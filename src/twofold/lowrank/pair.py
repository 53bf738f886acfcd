"""Schemes of two convolutions: fitted to the weights alone, or to what the layer's inputs look like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from twofold.conv import Array, ConvLayer, Factors, LayerStatistics, SecondPass, Size
from twofold.errors import OptionError
from twofold.lowrank.assemble import balance, checked_ranks, checked_weight, evened, pair_factors
from twofold.lowrank.covariance import PatchCovariance, check_statistics, mean_variance
from twofold.lowrank.measure import as_stored
from twofold.lowrank.nested import Nested
from twofold.lowrank.options import FitOptions
from twofold.lowrank.refine import refined_pair
from twofold.lowrank.regression import Regression, first_factor, no_second_pass, regress
from twofold.lowrank.spectra import eigen_descending, tail_shares
from twofold.lowrank.subspace import Basis, Principal, principal_basis
from twofold.lowrank.unfold import Split


@dataclass(frozen=True, eq=False)
class _Single(Nested):
    """What the factorizations with one rank share.

    Attributes:
        scheme: registered name.
        variant: which of its variants.
        layer: the layer.
        split: how the kernel's axes are shared out.
        shares: (max_rank + 1,), energy error at every rank.
        ridge: see `FitOptions`.
        mean: (d,), mean of the patches; None without statistics.
        singular_values: see `Factorization`.
    """

    scheme: str
    variant: str
    layer: ConvLayer
    split: Split
    shares: Array
    ridge: float
    mean: Array | None
    singular_values: Array | None

    @property
    def max_ranks(self) -> Size:
        return (len(self.shares) - 1,)

    def energy_errors(self) -> Array:
        return self.shares

    def energy_error(self, ranks: Size) -> float:
        (rank,) = checked_ranks(self.layer.name, ranks, self.max_ranks)
        return float(self.shares[rank])

    def relative_error(self, ranks: Size) -> float:
        return sqrt(self.energy_error(ranks))

    def _matrices(self, rank: int) -> tuple[Array, Array]:
        raise NotImplementedError

    def factors(self, ranks: Size) -> Factors:
        (rank,) = checked_ranks(self.layer.name, ranks, self.max_ranks)
        V, H = evened(*self._matrices(rank))
        return as_stored(self.layer, pair_factors(self.scheme, self.layer, self.split, V, H, self.mean))


@dataclass(frozen=True, eq=False)
class Projected(_Single):
    """The unfolding M projected on orthonormal directions P of its rows (V = P_r, H = P_r^T M) or columns.

    Attributes:
        directions: P.
    """

    directions: Principal

    def _matrices(self, rank: int) -> tuple[Array, Array]:
        P, inside = self.directions.leading(rank)
        return (P, inside) if self.directions.left else (inside.T, P.T)


def project(
    scheme: str, variant: str, layer: ConvLayer, split: Split, rank: int, options: FitOptions
) -> Projected:
    """Fit a pair to the weights: the truncated SVD of the unfolding, best in the Frobenius norm."""
    found = principal_basis(checked_weight(layer), layer.geometry, split, rank, options)
    energies = found.energies
    full = min(split.rows(layer.geometry), split.columns(layer.geometry))
    singular_values = np.sqrt(energies) if len(energies) == full else None
    shares = _cut(energies, found.rest, rank)
    return Projected(scheme, variant, layer, split, shares, 0.0, None, singular_values, found)


def _cut(energies: Array, rest: float, rank: int) -> Array:
    """Energy errors of the ranks 0..rank, from the energies of these and possibly of more components."""
    return tail_shares(energies, rest)[: rank + 1]


def channel_fit(
    scheme: str, variant: str, layer: ConvLayer, split: Split, rank: int, statistics: LayerStatistics,
    options: FitOptions, second_pass: SecondPass | None,
) -> Projected:  # fmt: skip
    """Fit the pair (W, then 1 x 1) to the outputs: principal components of the output covariance W C W^T.

    With P its eigenvectors, the output error of P_r P_r^T W is tr((I - P_r P_r^T) W C W^T), the sum of the
    discarded eigenvalues, and no W' of rank r does better (Zhang et al., arXiv 1505.06798, section 3.1).
    """
    check_statistics(layer, statistics)
    W = checked_weight(layer).reshape(layer.geometry.c_out, -1).astype(np.float64)
    shift = options.ridge * mean_variance(statistics)
    if statistics.covariance is None:
        share = statistics.shrinkage
        seen = (1 - share) * _output_covariance(scheme, layer, split, W, statistics, second_pass)
        values, basis = eigen_descending(seen + (shift + share * mean_variance(statistics)) * (W @ W.T))
    elif W.shape[0] <= W.shape[1]:
        C = PatchCovariance(statistics.covariance, shift, layer.geometry, split)
        values, basis = eigen_descending(W @ C.apply(W.T))
    else:
        # More outputs than inputs: the outputs lie in the span of W's columns, of which Q is a basis.
        C = PatchCovariance(statistics.covariance, shift, layer.geometry, split)
        Q, R = np.linalg.qr(W)
        values, inner = eigen_descending(R @ C.apply(R.T))
        basis = Q @ inner
    energies = np.maximum(values, 0.0)
    shares = _cut(energies, 0.0, rank)
    ridge, mean = options.ridge, statistics.mean
    basis = np.ascontiguousarray(basis[:, :rank])
    directions = Basis(basis, basis.T @ W, False, energies, 0.0)
    return Projected(scheme, variant, layer, split, shares, ridge, mean, None, directions)


def _output_covariance(
    scheme: str, layer: ConvLayer, split: Split, W: Array, statistics: LayerStatistics,
    second_pass: SecondPass | None,
) -> Array:  # fmt: skip
    """W C W^T where C was over the memory limit: what another pass sees behind the pair (W, identity)."""
    if second_pass is None:
        raise OptionError(no_second_pass(layer))
    identity = np.eye(len(W))
    seen = second_pass(layer, pair_factors(scheme, layer, split, W.T, identity, statistics.mean))
    # The pair was balanced, which scaled its inner channels: undo that on what was gathered.
    undo = 1 / balance(W.T, identity)
    return np.asarray(undo[:, None] * seen.covariance * undo)


@dataclass(frozen=True, eq=False)
class Fitted(_Single):
    """First convolution from the whitened strips, second by least squares in its outputs.

    Attributes:
        V: (rows, max_rank), nested: its leading columns are the first convolution of smaller ranks.
        regression: the second convolution for every rank.
        options: numerical options.
        covariance: of the patches; None where a second pass stood in for it.
    """

    V: Array
    regression: Regression
    options: FitOptions
    covariance: PatchCovariance | None

    @property
    def closed_form(self) -> Fitted:
        return replace(self, options=replace(self.options, refine=0))

    def _matrices(self, rank: int) -> tuple[Array, Array]:
        V, H = self.V[:, :rank], self.regression.solve(rank)
        if self.options.refine and self.covariance is not None:
            return refined_pair(checked_weight(self.layer), self.covariance, V, H, self.options.refine)
        return V, H


def fit(
    scheme: str, variant: str, layer: ConvLayer, split: Split, rank: int, statistics: LayerStatistics,
    options: FitOptions, second_pass: SecondPass | None,
) -> Fitted:  # fmt: skip
    """Fit a pair to the layer's outputs on the inputs that `statistics` describes."""
    check_statistics(layer, statistics)
    V, H0 = first_factor(layer, split, rank, statistics, options)
    regression, covariance = regress(scheme, layer, split, V, H0, statistics, options, second_pass)
    energies = regression.energies().sum(axis=1)
    shares = _cut(energies, regression.residual, rank)
    ridge, mean = regression.ridge, statistics.mean
    return Fitted(
        scheme, variant, layer, split, shares, ridge, mean, None, V, regression, options, covariance
    )
