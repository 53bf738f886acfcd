"""The principal basis of a matrix that is large: exact where that takes seconds, a filtered block above.

**Exact.** One symmetric eigenproblem of the Gram matrix of the shorter side, instead of the singular value
decomposition of both sides: same subspace, a fraction of the work. In float64 for small sides; in float32
above, where rounding perturbs the Gram matrix by eps times its largest eigenvalue: neighbours mix, which
costs energy only to second order.

**Filtered block.** Where only the leading part is wanted, a random block X is filtered to T_m(G / c - 1) X,
with T_m the Chebyshev polynomial and the interval [0, 2 c] covering the unwanted spectrum: unwanted
directions stay within 1, wanted ones grow like cosh(m acosh(t)). Then an orthonormal basis and a
Rayleigh-Ritz step. The interval's end is read from a Lanczos estimate of the spectral density. All of it is
matrix products; on the flat spectrum of random weights, the worst case, the lost energy is within 1.001 of
the optimum, and far closer on decaying ones.
Sources: Zhou, Saad, Tiago and Chelikowsky, 2006 (filter); Lin, Saad and Yang, arXiv 1308.5467 (density).

Whatever the basis, the energies are those of `spectra`: measured, hence true for the factors that come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.linalg import blas

from twofold.conv import Array, ConvGeometry
from twofold.lowrank.options import FitOptions
from twofold.lowrank.spectra import eigen_descending, left_basis
from twofold.lowrank.unfold import Split, transposed, unfold, unfold_chunks

_BLOCK_SHARE = 0.3  # of the side: with more ranks than this the exact way is as fast
_OVERSAMPLING = 1.2
_DEGREE = 6
_ROUNDS = 6
_TOLERANCE = 4e-4  # of the energy that is lost anyway
_GROWTH = 3e5  # between orthonormalizations; float32 carries 1e7
_STEEPEST = 1e-5  # of the largest eigenvalue: below, float32 rounding of the Gram matrix drowns directions
_WIDE_SIDE = 8192  # largest side whose float64 eigenproblem fits a few GB


@dataclass(frozen=True, eq=False)
class Basis:
    """Orthonormal directions of one side of an unfolding, by falling energy.

    Attributes:
        vectors: (rows, k), or (columns, k) where `left` is false.
        left: whether it is the side of the rows.
        energies: (k,), squared norm of the unfolding along each, in some unit.
        rest: squared norm outside all of them, in the same unit.
    """

    vectors: Array
    left: bool
    energies: Array
    rest: float


def principal_basis(
    weight: Array, geometry: ConvGeometry, split: Split, rank: int, options: FitOptions
) -> Basis:
    """Return at least `rank` principal directions of the unfolding's shorter side."""
    left = split.rows(geometry) <= split.columns(geometry)
    if not left:
        weight, geometry, split = transposed(weight, geometry, split)
    side = split.rows(geometry)
    if side <= options.exact_side or weight.dtype == np.float64:
        return exact_basis(unfold(weight, geometry, split), left)
    largest = float(np.abs(weight).max())
    # Squares must not leave float32's range; a plain layer is not touched.
    scale = np.float32(1.0 if 1e-6 < largest < 1e6 or largest == 0 else 1 / largest)

    def blocks() -> Iterator[Array]:
        for _, block in unfold_chunks(weight, geometry, split):
            yield block if scale == 1 and block.dtype == np.float32 else block.astype(np.float32) * scale

    G = gram(blocks, side)
    P = None
    if side > options.block_side and rank <= _BLOCK_SHARE * side:
        P = leading_basis(G, rank)
        if P is None and side <= _WIDE_SIDE:
            return exact_basis(unfold(weight, geometry, split), left)
    return measured(blocks, eigen_descending(G)[1] if P is None else P, left)


def exact_basis(A: Array, left: bool) -> Basis:
    """Return all principal directions of the rows of A (m, n), m <= n, in float64."""
    A = A.astype(np.float64)
    P = left_basis(A, len(A))
    return Basis(P, left, np.sum((P.T @ A) ** 2, axis=1), 0.0)


def gram(blocks: Callable[[], Iterator[Array]], side: int) -> Array:
    """Return A A^T (side, side) in float32, A given by blocks of columns."""
    G = np.zeros((side, side), dtype=np.float32, order="F")
    for block in blocks():
        G = blas.ssyrk(1.0, block.T, beta=1.0, c=G, trans=1, lower=1, overwrite_c=1)
    for start in range(0, side, 512):
        stop = min(start + 512, side)
        tile = G[start:stop, start:stop]
        tile += np.tril(tile, -1).T
        G[start:stop, stop:] = G[stop:, start:stop].T
    return G


def measured(blocks: Callable[[], Iterator[Array]], P: Array, left: bool) -> Basis:
    """Measure a basis: energy along each of its columns, and outside of it (0 for a complete one)."""
    complete = P.shape[0] == P.shape[1]
    energies, rest = np.zeros(P.shape[1]), 0.0
    for block in blocks():
        inside = P.T @ block
        energies += np.einsum("ij,ij->i", inside, inside, dtype=np.float64)
        if not complete:
            outside = block - P @ inside
            rest += float(np.vdot(outside, outside))
    return Basis(P, left, energies, rest)


def leading_basis(G: Array, rank: int, seed: int = 0) -> Array | None:
    """Return an approximate leading eigenbasis (n, rank) of a positive semidefinite G (n, n), float32.

    Rounds of filter, orthonormalization and Rayleigh-Ritz, until the energy that is estimated to be missing
    is a small share of what the rank must lose. From the second round on the interval ends at the smallest
    Ritz value, which never exceeds the eigenvalue it stands for (Cauchy), so that nothing wanted is damped.

    Args:
        G: the matrix.
        rank: how many directions, by falling eigenvalue.
        seed: of the random block.

    Returns:
        The basis, or None where the eigenvalues fall too steeply for float32.
    """
    n = len(G)
    rng = np.random.default_rng(seed)
    X: Array = rng.standard_normal((n, min(n, int(rank * _OVERSAMPLING) + 8)), dtype=np.float32)
    trace = float(np.trace(G, dtype=np.float64))
    top, cut = spectral_quantile(G, X.shape[1] / n, rng)
    for _ in range(_ROUNDS):
        if cut <= _STEEPEST * top:
            return None
        growth = float(np.arccosh(max(2 * top / cut - 1, 1 + 1e-6)))
        passes = -(-_DEGREE // int(np.clip(np.log(_GROWTH) / growth, 1, _DEGREE)))
        for _ in range(passes):
            X = orthonormal(filtered(G, X, cut / 2, -(-_DEGREE // passes)))
        image = G @ X
        values, Z = eigen_descending(X.T @ image)
        X, image = X @ Z, image @ Z
        lost = trace - float(values[:rank].sum())
        if _missing(X, image, values, rank, trace) <= _TOLERANCE * lost:
            break
        top, cut = float(values[0]), float(values[-1])
    return X[:, :rank]


def _missing(X: Array, image: Array, values: Array, rank: int, trace: float) -> float:
    """Estimate the energy that the leading Ritz vectors miss.

    To first order an eigenvalue exceeds its Ritz value by |residual|^2 / (distance to where the residual
    lies), and the filter leaves all of the unwanted spectrum alike in the residual: its mean stands for where
    that is.
    """
    residual = image[:, :rank] - X[:, :rank] * values[:rank]
    outside = max(trace - float(values.sum()), 0.0) / max(len(X) - len(values), 1)
    distance = np.maximum(values[:rank] - outside, np.finfo(np.float32).eps * values[0])
    return float(np.sum(np.einsum("ij,ij->j", residual, residual) / distance))


def filtered(G: Array, X: Array, half: float, degree: int) -> Array:
    """Return T_degree(G / half - 1) X by the three-term recurrence."""
    c = np.float32(half)
    previous, current = X, (G @ X) / c - X
    for _ in range(degree - 1):
        following = G @ current
        following /= c
        following -= current
        following *= 2
        following -= previous
        previous, current = current, following
    return current


def orthonormal(X: Array) -> Array:
    """Return an orthonormal basis of the columns of X by two rounds of Cholesky QR, the first in float64.

    The condition of a filtered block (up to `_GROWTH` times a small factor) squared is within float64; what
    float32 then leaves of orthogonality the second round repairs (Yamamoto et al., 2015).
    """
    for precise in (True, False):
        S = np.zeros((X.shape[1],) * 2)
        for start in range(0, len(X), 2048):
            rows = X[start : start + 2048]
            rows = rows.astype(np.float64) if precise else rows
            S += rows.T @ rows
        R = scipy.linalg.cholesky(S, overwrite_a=True, check_finite=False).astype(np.float32)
        X = scipy.linalg.solve_triangular(R, X.T, trans="T", check_finite=False).T
    return X


def spectral_quantile(G: Array, share: float, rng: np.random.Generator) -> tuple[float, float]:
    """Estimate the largest eigenvalue, and the one that `share` of all eigenvalues exceed.

    Stochastic Lanczos quadrature: the Ritz values of a random vector, weighted by the squared first
    components of their vectors, are a Gauss quadrature of the spectral density.
    """
    steps, vectors = min(14, len(G)), 8
    tiny = np.finfo(np.float32).tiny
    v = rng.standard_normal((len(G), vectors), dtype=np.float32)
    v /= np.linalg.norm(v, axis=0)
    before, beta = np.zeros_like(v), np.zeros(vectors, dtype=np.float32)
    diagonal, off = np.empty((steps, vectors)), np.empty((steps, vectors))
    for k in range(steps):
        w = G @ v - beta * before
        alpha = np.einsum("ij,ij->j", w, v)
        w -= alpha * v
        beta = np.linalg.norm(w, axis=0)
        diagonal[k], off[k] = alpha, beta
        before, v = v, w / np.maximum(beta, tiny)
    nodes, weights = [], []
    for j in range(vectors):
        values, Z = scipy.linalg.eigh_tridiagonal(diagonal[:, j], off[:-1, j])
        nodes.append(values)
        weights.append(Z[0] ** 2 / vectors)
    values, mass = np.concatenate(nodes), np.concatenate(weights)
    order = np.argsort(values)[::-1]
    values, mass = np.maximum(values[order], 0.0), mass[order]
    middle = np.cumsum(mass) - mass / 2
    return float(values[0]), float(np.interp(share, middle, values))
