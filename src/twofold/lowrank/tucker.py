"""The scheme of three convolutions: fewer inputs, the layer's kernel on fewer channels, all outputs again.

Weights only it is the truncated higher-order SVD (De Lathauwer, De Moor and Vandewalle, 2000, section 4):
with complete orthonormal bases P1 of the inputs and P2 of the outputs the core G = W x P1^T x P2^T is a
rotation of W, and the pair of ranks (r1, r2) keeps the core's leading block, so the lost energy is exactly
that of the core outside.

With activations the first factor V and the regression of the layer's outputs y on z = V p come from the
`input` scheme. The fit y' = H z leaves a remainder y - y' that is uncorrelated with z, so for orthonormal P
(C_out, r2)

    E ||y - P P^T y'||^2 = E ||y - y'||^2 + E ||y' - P P^T y'||^2,

and with cov(y') = G^T G (G of `regression`) and P its eigenvectors at the largest rank, the energy lost at
(r1, r2) is that of the table (G P)^2 outside its leading block plus the residual. Both tables are sums of
squares.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from twofold.conv import Array, ConvLayer, FactorConv, Factors, LayerStatistics, SecondPass, Size
from twofold.lowrank.assemble import balanced, checked_ranks, checked_weight, corrected_bias, output_dtype
from twofold.lowrank.covariance import PatchCovariance, check_statistics
from twofold.lowrank.measure import as_stored
from twofold.lowrank.nested import Nested
from twofold.lowrank.options import FitOptions
from twofold.lowrank.refine import Alternations, as_unfolded
from twofold.lowrank.regression import Regression, first_factor, regress
from twofold.lowrank.spectra import block_shares, eigen_descending, left_basis
from twofold.lowrank.unfold import Split, part, patch_strips


def _input_split(layer: ConvLayer) -> Split:
    return Split((), tuple(range(len(layer.geometry.kernel))))


def _build(layer: ConvLayer, V: Array, core: Array, P: Array, mean: Array | None) -> Factors:
    """Build the stack from V (C_in, r1), core (r1, taps, r2) and P (C_out, r2)."""
    geometry, dtype = layer.geometry, output_dtype(layer)
    weight = checked_weight(layer)
    r1, r2 = V.shape[1], P.shape[1]
    shift = None
    if mean is not None:
        z = V.T @ patch_strips(mean, geometry, _input_split(layer))
        replaced = P @ np.einsum("ktr,kt->r", core, z)
        shift = weight.reshape(geometry.c_out, -1) @ mean - replaced
    flat, last = balanced(core.reshape(-1, r2), P.T)
    first, inner = balanced(V, flat.reshape(r1, -1))
    kernel = np.moveaxis(inner.reshape(r1, -1, r2), -1, 0).reshape(r2, r1, *geometry.kernel)
    axes = tuple(range(len(geometry.kernel)))
    ones = (1,) * len(axes)

    def cast(array: Array) -> Array:
        return np.ascontiguousarray(array, dtype=dtype)

    convs = (
        FactorConv(part(geometry, r1, geometry.c_in, ()), cast(first.T).reshape(r1, geometry.c_in, *ones)),
        FactorConv(part(geometry, r2, r1, axes), cast(kernel)),
        FactorConv(
            part(geometry, geometry.c_out, r2, ()),
            cast(last.T).reshape(geometry.c_out, r2, *ones),
            corrected_bias(layer, shift),
        ),
    )
    return as_stored(layer, Factors("tucker2", (r1, r2), convs))


@dataclass(frozen=True, eq=False)
class _Double(Nested):
    """What the factorizations with two ranks share; `shares` is (max_r1 + 1, max_r2 + 1)."""

    scheme: str
    variant: str
    layer: ConvLayer
    shares: Array
    ridge: float
    options: FitOptions

    @property
    def max_ranks(self) -> Size:
        return self.shares.shape[0] - 1, self.shares.shape[1] - 1

    @property
    def singular_values(self) -> None:
        return None

    @property
    def closed_form(self) -> _Double:
        return replace(self, options=replace(self.options, refine=0))

    def energy_errors(self) -> Array:
        return self.shares

    def energy_error(self, ranks: Size) -> float:
        return float(self.shares[checked_ranks(self.layer.name, ranks, self.max_ranks)])

    def relative_error(self, ranks: Size) -> float:
        return sqrt(self.energy_error(ranks))


@dataclass(frozen=True, eq=False)
class TuckerProjected(_Double):
    """Higher-order SVD of the weights.

    Attributes:
        inputs: (C_in, max_r1), orthonormal.
        outputs: (C_out, max_r2), orthonormal.
    """

    inputs: Array
    outputs: Array

    def factors(self, ranks: Size) -> Factors:
        r1, r2 = checked_ranks(self.layer.name, ranks, self.max_ranks)
        geometry = self.layer.geometry
        W = checked_weight(self.layer).reshape(geometry.c_out, geometry.c_in, -1).astype(np.float64)
        P1, P2 = self.inputs[:, :r1], self.outputs[:, :r2]
        # HOOI: each basis becomes optimal for the other (same authors, On the best rank-1 ..., 2000).
        for _ in range(self.options.refine):
            P2 = left_basis(np.einsum("oit,ik->okt", W, P1, optimize=True).reshape(geometry.c_out, -1), r2)
            P1 = left_basis(np.einsum("oit,or->irt", W, P2, optimize=True).reshape(geometry.c_in, -1), r1)
        core = np.einsum("oit,ik,or->ktr", W, P1, P2, optimize=True)
        return _build(self.layer, P1, core, P2, None)


def tucker_project(
    scheme: str, layer: ConvLayer, ranks: tuple[int, int], options: FitOptions
) -> TuckerProjected:
    """Fit three convolutions to the weights."""
    geometry = layer.geometry
    W = checked_weight(layer).reshape(geometry.c_out, geometry.c_in, -1).astype(np.float64)
    taps = W.shape[2]
    P1 = left_basis(W.swapaxes(0, 1).reshape(geometry.c_in, -1), min(geometry.c_in, geometry.c_out * taps))
    P2 = left_basis(W.reshape(geometry.c_out, -1), min(geometry.c_out, geometry.c_in * taps))
    table = np.zeros((P1.shape[1], P2.shape[1]))
    for tap in range(taps):
        table += (P1.T @ W[:, :, tap].T @ P2) ** 2
    shares = block_shares(table)[: ranks[0] + 1, : ranks[1] + 1]
    return TuckerProjected(scheme, "", layer, shares, 0.0, options, P1[:, : ranks[0]], P2[:, : ranks[1]])


@dataclass(frozen=True, eq=False)
class TuckerFitted(_Double):
    """Inputs from the whitened pixels, core by regression, outputs from the covariance of the fit.

    Attributes:
        V: (C_in, max_r1).
        outputs: (C_out, max_r2), orthonormal.
        regression: of the layer's outputs on z.
        mean: (d,), of the patches.
        covariance: of the patches; None where a second pass stood in for it.
    """

    V: Array
    outputs: Array
    regression: Regression
    mean: Array
    covariance: PatchCovariance | None

    def factors(self, ranks: Size) -> Factors:
        r1, r2 = checked_ranks(self.layer.name, ranks, self.max_ranks)
        geometry = self.layer.geometry
        V, P = self.V[:, :r1], self.outputs[:, :r2]
        H = self.regression.solve(r1).reshape(r1, geometry.c_out, -1)
        if self.options.refine:
            V, H, P = self._refined(V, H, r2)
        core = np.einsum("kot,or->ktr", H, P, optimize=True)
        return _build(self.layer, V, core, P, self.mean)

    def _refined(self, V: Array, H: Array, r2: int) -> tuple[Array, Array, Array]:
        """Best outputs for these inputs; with a covariance, alternate with best inputs for these outputs."""
        r1, C = V.shape[1], self.covariance
        G = self.regression.explained[: r1 * self.regression.taps]
        P = eigen_descending(G.T @ G, r2)[1]
        if C is None:
            return V, H, P
        try:
            alternations = Alternations(checked_weight(self.layer), C)
            for _ in range(self.options.refine):
                kept = np.einsum("kot,or,qr->kqt", H, P, P, optimize=True).reshape(r1, -1)
                V, flat, K = alternations.second(alternations.first(V, kept))
                H = as_unfolded(flat, r1).reshape(r1, self.layer.geometry.c_out, -1)
                G = K.T @ flat  # cov(y') = H^T S H = G^T G
                P = eigen_descending(G.T @ G, r2)[1]
        except np.linalg.LinAlgError:
            pass  # inputs that vary along few directions: what there is stays
        return V, H, P


def tucker_fit(
    scheme: str, layer: ConvLayer, ranks: tuple[int, int], statistics: LayerStatistics, options: FitOptions,
    second_pass: SecondPass | None,
) -> TuckerFitted:  # fmt: skip
    """Fit three convolutions to the layer's outputs."""
    check_statistics(layer, statistics)
    split = _input_split(layer)
    V, H0 = first_factor(layer, split, ranks[0], statistics, options)
    regression, covariance = regress(scheme, layer, split, V, H0, statistics, options, second_pass)
    G = regression.explained
    P = eigen_descending(G.T @ G)[1]
    shares = block_shares(regression.energies(P), regression.residual)[: ranks[0] + 1, : ranks[1] + 1]
    outputs = np.ascontiguousarray(P[:, : ranks[1]])
    ridge, mean = regression.ridge, statistics.mean
    return TuckerFitted(scheme, "", layer, shares, ridge, options, V, outputs, regression, mean, covariance)
