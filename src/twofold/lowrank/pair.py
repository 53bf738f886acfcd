"""Schemes of two convolutions: fitted to the weights alone, or to what the layer's inputs look like."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from twofold.conv import Array, Factors, FactorStatistics, Size
from twofold.lowrank.assemble import balance, equalized, pair_factors
from twofold.lowrank.measure import as_stored
from twofold.lowrank.problem import Problem
from twofold.lowrank.protocols import Begun, Factorization
from twofold.lowrank.refine import refined_pair
from twofold.lowrank.regression import Regression, second_factor
from twofold.lowrank.spectra import eigen_descending, tail_energy_errors
from twofold.lowrank.subspace import principal_basis
from twofold.lowrank.unfold import Split

#: Gives V (rows, r) and H (r, columns) at a rank r.
Matrices = Callable[[int], tuple[Array, Array]]


def pair_factorization(
    problem: Problem, scheme: str, variant: str, split: Split, energy_errors: Array, matrices: Matrices, *,
    refined: Matrices | None = None, ridge: float = 0.0, singular_values: Array | None = None,
) -> Factorization:  # fmt: skip
    """Wrap up what gives the two matrices.

    Args:
        problem: what was fitted.
        scheme: its name.
        variant: which of its variants.
        split: how the kernel's axes are shared out.
        energy_errors: (max_rank + 1,), energy error at every rank.
        matrices: of the closed form.
        refined: better ones that take long, where there are any.
        ridge: see `Factorization`.
        singular_values: see `Factorization`.
    """
    layer, mean = problem.layer, problem.mean

    def build(matrices: Matrices, ranks: Size) -> Factors:
        V, H = equalized(*matrices(ranks[0]))
        return as_stored(layer, pair_factors(scheme, layer, split, V, H, mean))

    return Factorization(
        scheme, variant, layer.name, (len(energy_errors) - 1,), lambda: energy_errors,
        partial(build, refined or matrices),
        (lambda ranks: (float(energy_errors[ranks]), build(matrices, ranks))) if refined else None,
        ridge=ridge, singular_values=singular_values,
    )  # fmt: skip


def _cut(energies: Array, rest: float, rank: int) -> Array:
    """Energy errors of the ranks 0..rank, from the energies of these and possibly of more components."""
    return tail_energy_errors(energies, rest)[: rank + 1]


def project(problem: Problem, scheme: str, variant: str, split: Split, rank: int) -> Factorization:
    """Fit a pair to the weights: the truncated SVD of the unfolding, best in the Frobenius norm.

    The unfolding M is projected on orthonormal directions P of its rows (V = P_r, H = P_r^T M) or columns.
    """
    geometry = problem.layer.geometry
    found = principal_basis(problem.weight, geometry, split, rank, problem.options)
    energies = found.energies
    full = min(split.rows(geometry), split.columns(geometry))

    def matrices(rank: int) -> tuple[Array, Array]:
        P, inside = found.leading(rank)
        return (P, inside) if found.left else (inside.T, P.T)

    return pair_factorization(
        problem, scheme, variant, split, _cut(energies, found.rest, rank), matrices,
        singular_values=np.sqrt(energies) if len(energies) == full else None,
    )  # fmt: skip


def channel_fit(
    problem: Problem, scheme: str, variant: str, split: Split, rank: int
) -> Factorization | Begun:
    """Fit the pair (W, then 1 x 1) to the outputs: principal components of the output covariance W C W^T.

    With P its eigenvectors, the output error of P_r P_r^T W is tr((I - P_r P_r^T) W C W^T), the sum of the
    discarded eigenvalues, and no W' of rank r does better (Zhang et al., arXiv 1505.06798, section 3.1).
    """
    W, ridge, seen = problem.W, problem.options.ridge, problem.seen

    def known(values: Array, basis: Array) -> Factorization:
        P = np.ascontiguousarray(basis[:, :rank])
        inside = P.T @ W

        def matrices(rank: int) -> tuple[Array, Array]:
            return inside[:rank].T, P[:, :rank].T

        energy_errors = _cut(np.maximum(values, 0.0), 0.0, rank)
        return pair_factorization(problem, scheme, variant, split, energy_errors, matrices, ridge=ridge)

    if problem.over_the_limit:
        identity, shrinkage = np.eye(len(W)), seen.shrinkage

        def finish(behind: FactorStatistics) -> Factorization:
            # The pair was balanced, which scaled its inner channels: undo that on what was gathered.
            undo = 1 / balance(W.T, identity)
            outputs = (1 - shrinkage) * (undo[:, None] * behind.covariance * undo)
            shift = (ridge + shrinkage) * problem.variance
            return known(*eigen_descending(outputs + shift * (W @ W.T)))

        return Begun(pair_factors(scheme, problem.layer, split, W.T, identity, problem.mean), finish)
    if W.shape[0] <= W.shape[1]:
        return known(*eigen_descending(W @ problem.cross(ridge)))
    # More outputs than inputs: the outputs lie in the span of W's columns, of which Q is a basis.
    Q, R = np.linalg.qr(W)
    values, inner = eigen_descending(R @ problem.patches(split, ridge).apply(R.T))
    return known(values, Q @ inner)


def fit(problem: Problem, scheme: str, variant: str, split: Split, rank: int) -> Factorization | Begun:
    """Fit a pair to the layer's outputs: the first convolution by the strips, the second by least squares."""
    return second_factor(problem, scheme, split, rank, partial(_regressed, problem, scheme, variant, split))


def _regressed(
    problem: Problem, scheme: str, variant: str, split: Split, V: Array, found: Regression
) -> Factorization:
    rounds, weight, rank = problem.options.refine, problem.weight, V.shape[1]
    refined = None

    def matrices(rank: int) -> tuple[Array, Array]:
        return V[:, :rank], found.solve(rank)

    if rounds and not problem.over_the_limit:
        C, cross = problem.kept(split, found.ridge), problem.cross(found.ridge)

        def refined(rank: int) -> tuple[Array, Array]:
            return refined_pair(weight, C, cross, *matrices(rank), rounds)

    energy_errors = _cut(found.energies().sum(axis=1), found.residual, rank)
    return pair_factorization(
        problem, scheme, variant, split, energy_errors, matrices, refined=refined, ridge=found.ridge
    )
