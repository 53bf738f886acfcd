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

from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.linalg

from twofold.conv import Array, ConvLayer, FactorConv, Factors, Size
from twofold.lowrank.assemble import balanced, checked_weight, corrected_bias, output_dtype
from twofold.lowrank.measure import as_stored
from twofold.lowrank.problem import Problem
from twofold.lowrank.protocols import Begun, Factorization
from twofold.lowrank.refine import Alternations, as_unfolded
from twofold.lowrank.regression import Regression, second_factor
from twofold.lowrank.spectra import block_energy_errors, eigen_descending, left_basis
from twofold.lowrank.unfold import Split, part, patch_strips

#: Gives V (C_in, r1), the core (r1, taps, r2) and P (C_out, r2) after some alternations.
Matrices = Callable[[Size, int], tuple[Array, Array, Array]]


def _input_split(layer: ConvLayer) -> Split:
    return Split((), tuple(range(len(layer.geometry.kernel))))


def _build(
    layer: ConvLayer, mean: Array | None, scheme: str, matrices: Matrices, rounds: int, ranks: Size
) -> Factors:
    geometry, dtype = layer.geometry, output_dtype(layer)
    V, core, P = matrices(ranks, rounds)
    r1, r2 = V.shape[1], P.shape[1]
    shift = None
    if mean is not None:
        z = V.T @ patch_strips(mean, geometry, _input_split(layer))
        replaced = P @ np.einsum("ktr,kt->r", core, z)
        shift = checked_weight(layer).reshape(geometry.c_out, -1) @ mean - replaced
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
    return as_stored(layer, Factors(scheme, (r1, r2), convs))


def _factorization(
    problem: Problem, scheme: str, energy_errors: Array, matrices: Matrices, ridge: float = 0.0
) -> Factorization:
    """Wrap up what gives the three matrices; `energy_errors` is (max_r1 + 1, max_r2 + 1)."""
    build = partial(_build, problem.layer, problem.mean, scheme, matrices)
    limits = tuple(size - 1 for size in energy_errors.shape)
    return Factorization(
        scheme, "", problem.layer.name, limits, lambda: energy_errors, partial(build, problem.options.refine),
        lambda ranks: (float(energy_errors[ranks]), build(0, ranks)), ridge=ridge,
    )  # fmt: skip


def tucker_project(problem: Problem, scheme: str, limits: Size) -> Factorization:
    """Fit three convolutions to the weights."""
    geometry = problem.layer.geometry
    W = problem.weight.reshape(geometry.c_out, geometry.c_in, -1)
    taps, double = W.shape[2], W.astype(np.float64)
    P1 = left_basis(
        double.swapaxes(0, 1).reshape(geometry.c_in, -1), min(geometry.c_in, geometry.c_out * taps)
    )
    P2 = left_basis(double.reshape(geometry.c_out, -1), min(geometry.c_out, geometry.c_in * taps))
    table = np.zeros((P1.shape[1], P2.shape[1]))
    for tap in range(taps):
        table += (P1.T @ double[:, :, tap].T @ P2) ** 2
    energy_errors = block_energy_errors(table)[: limits[0] + 1, : limits[1] + 1]
    inputs, outputs = P1[:, : limits[0]], P2[:, : limits[1]]

    def matrices(ranks: Size, rounds: int) -> tuple[Array, Array, Array]:
        (r1, r2), double = ranks, W.astype(np.float64)
        P1, P2 = inputs[:, :r1], outputs[:, :r2]
        # HOOI: each basis becomes optimal for the other (same authors, On the best rank-1 ..., 2000).
        for _ in range(rounds):
            P2 = left_basis(
                np.einsum("oit,ik->okt", double, P1, optimize=True).reshape(geometry.c_out, -1), r2
            )
            P1 = left_basis(
                np.einsum("oit,or->irt", double, P2, optimize=True).reshape(geometry.c_in, -1), r1
            )
        return P1, np.einsum("oit,ik,or->ktr", double, P1, P2, optimize=True), P2

    return _factorization(problem, scheme, energy_errors, matrices)


def tucker_fit(problem: Problem, scheme: str, limits: Size) -> Factorization | Begun:
    """Fit three convolutions to the layer's outputs."""
    split, then = _input_split(problem.layer), partial(_regressed, problem, scheme, limits)
    return second_factor(problem, scheme, split, limits[0], then)


def _regressed(problem: Problem, scheme: str, limits: Size, V: Array, found: Regression) -> Factorization:
    G = found.explained
    P = eigen_descending(G.T @ G)[1]
    energy_errors = block_energy_errors(found.energies(P), found.residual)[: limits[0] + 1, : limits[1] + 1]
    outputs = np.ascontiguousarray(P[:, : limits[1]])
    alternations: Callable[[], Alternations] | None = None
    if problem.options.refine and not problem.over_the_limit:
        C = problem.kept(_input_split(problem.layer), found.ridge)
        alternations = partial(Alternations, problem.weight, C, problem.cross(found.ridge))

    def matrices(ranks: Size, rounds: int) -> tuple[Array, Array, Array]:
        r1, r2 = ranks
        X, P, H = V[:, :r1], outputs[:, :r2], found.solve(r1)
        if rounds:
            # Best outputs for these inputs; with a covariance, alternate with best inputs for these outputs.
            G = found.explained[: r1 * found.taps]
            P = eigen_descending(G.T @ G, r2)[1]
            if alternations is not None:
                X, H, P = _refined(alternations, X, H, P, rounds)
        return X, np.einsum("kot,or->ktr", H.reshape(r1, len(P), -1), P, optimize=True), P

    return _factorization(problem, scheme, energy_errors, matrices, found.ridge)


def _refined(
    begin: Callable[[], Alternations], V: Array, H: Array, P: Array, rounds: int
) -> tuple[Array, Array, Array]:
    r1, r2 = V.shape[1], P.shape[1]
    try:
        alternations = begin()
        for _ in range(rounds):
            kept = np.einsum("kot,or,qr->kqt", H.reshape(r1, len(P), -1), P, P, optimize=True)
            V, flat, K = alternations.second(alternations.first(V, kept.reshape(r1, -1)))
            H = as_unfolded(flat, r1)
            G = K.T @ flat  # cov(y') = H^T S H = G^T G
            P = eigen_descending(G.T @ G, r2)[1]
    except scipy.linalg.LinAlgError:
        pass  # inputs that vary along few directions: what there is stays
    return V, H, P
