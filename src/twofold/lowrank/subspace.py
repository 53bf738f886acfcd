"""The principal basis of a matrix that is large: exact where that takes seconds, a filtered block above.

**Exact.** One symmetric eigenproblem of the Gram matrix of the shorter side, instead of the singular value
decomposition of both sides: same subspace, a fraction of the work. In float64 with measured energies for
small sides. Above in float32, by way of a tridiagonal form: its eigenvalues are the energies, and vectors are
found for the rank that is read. Rounding perturbs the Gram matrix by about eps = 6e-8 times its largest
eigenvalue l_1: neighbours mix, which costs energy only to second order, and an eigenvalue l_k is off by
eps l_1 / l_k of itself. Down to l_k = `_GENTLE` l_1 that is below a thousandth; where the largest rank that
is wanted lies deeper, float64 takes over. It runs in one thread: a BLAS parts some sums among threads, and
the same weights should give the same bytes however many there are.

**Filtered block.** Where only the leading part is wanted, a random block X is filtered to T_m(G / c - 1) X,
with T_m the Chebyshev polynomial and the interval [0, 2 c] covering the unwanted spectrum: unwanted
directions stay within 1, wanted ones grow like cosh(m acosh(t)). Then an orthonormal basis and a
Rayleigh-Ritz step. The interval's end is read from a Lanczos estimate of the spectral density. All of it is
matrix products; on the flat spectrum of random weights, the worst case, the lost energy is within 1.001 of
the optimum, and far closer on decaying ones. All threads work, so that their number shows in the last digits.
Sources: Zhou, Saad, Tiago and Chelikowsky, 2006 (filter); Lin, Saad and Yang, arXiv 1308.5467 (density).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import scipy.linalg
from scipy.linalg import blas

from twofold.conv import Array, ConvGeometry
from twofold.device import Held, SumOfProducts, accelerator, product
from twofold.lowrank.options import FitOptions
from twofold.lowrank.spectra import EIGEN, eigen_descending, left_basis, one_thread
from twofold.lowrank.tridiagonal import Tridiagonal
from twofold.lowrank.unfold import Split, transposed, unfold, unfold_chunks

Blocks = Callable[[], Iterator[Array]]  # a matrix by blocks of columns, as often as needed

_KEPT = 1 << 26  # values of an unfolding that are kept instead of cut again: 256 MB
_GENTLE = 1e-4  # of the largest eigenvalue: down to here float32's eigenvalues are right to a thousandth
_BLOCK_SHARE = 0.3  # of the side: with more ranks than this the exact way is as fast
_OVERSAMPLING = 1.25
_DEGREE = 5
_CAUTION = 0.88  # the filter's interval ends below the cut, where it separates best
_ROUNDS = 6
_SAMPLE = 8
_BLOCK = 1000  # columns of a block, about
_TOLERANCE = 4.5e-4  # of the energy that is lost anyway
_GROWTH = 3e5  # between orthonormalizations; float32 carries 1e7
_STEEPEST = 1e-5  # of the largest eigenvalue: below, float32 rounding of the Gram matrix drowns directions


class Principal(Protocol):
    """Orthonormal directions of one side of an unfolding M, by falling energy; read at every rank."""

    @property
    def left(self) -> bool:
        """Whether the directions are of the side of the rows."""

    @property
    def energies(self) -> Array:
        """Squared norm of M along each direction that can be read, and possibly along more."""

    @property
    def rest(self) -> float:
        """Squared norm outside all of those."""

    def leading(self, rank: int) -> tuple[Array, Array]:
        """Return P (rows, rank) and P^T M (rank, columns), or P (columns, rank) and P^T M^T (rank, rows)."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Directions that are known, see `Principal`.

    Attributes:
        vectors: P, (rows, k); or (columns, k) where `left` is false.
        inside: P^T M, (k, columns); or P^T M^T, (k, rows).
        left: see `Principal`.
        energies: see `Principal`.
        rest: see `Principal`.
    """

    vectors: Array
    inside: Array
    left: bool
    energies: Array
    rest: float

    def leading(self, rank: int) -> tuple[Array, Array]:
        return self.vectors[:, :rank], self.inside[:rank]


@dataclass(frozen=True, eq=False)
class Unfolding:
    """A float32 matrix (rows, columns), rows no more than columns, cut from a weight block by block.

    Attributes:
        weight: (C_out, C_in, *kernel).
        geometry: its shape.
        split: how it is unfolded.
        scale: what it is multiplied by.
    """

    weight: Array
    geometry: ConvGeometry
    split: Split
    scale: np.float32

    @property
    def rows(self) -> int:
        return self.split.rows(self.geometry)

    def blocks(self) -> Iterator[Array]:
        """Yield blocks of columns, float32."""
        for _, block in unfold_chunks(self.weight, self.geometry, self.split):
            plain = self.scale == 1 and block.dtype == np.float32
            yield block if plain else block.astype(np.float32) * self.scale

    def kept(self) -> Blocks:
        """Blocks to be read several times: kept where memory allows, else cut again."""
        if self.weight.size > _KEPT:
            return self.blocks
        blocks = list(self.blocks())
        return lambda: iter(blocks)


@dataclass(frozen=True, eq=False)
class Reduced:
    """All energies of an unfolding, and the directions of the rank that is read; see `Principal`."""

    matrix: Unfolding
    form: Tridiagonal
    left: bool

    @property
    def energies(self) -> Array:
        return np.maximum(self.form.values, 0.0).astype(np.float64) / float(self.matrix.scale) ** 2

    @property
    def rest(self) -> float:
        return 0.0

    def leading(self, rank: int) -> tuple[Array, Array]:
        with one_thread():
            P = self.form.vectors(rank)
            inside = np.concatenate([P.T @ block for block in self.matrix.blocks()], axis=1)
        return P, inside / self.matrix.scale


def principal_basis(
    weight: Array, geometry: ConvGeometry, split: Split, rank: int, options: FitOptions
) -> Principal:
    """Return at least `rank` principal directions of the unfolding's shorter side."""
    left = split.rows(geometry) <= split.columns(geometry)
    if not left:
        weight, geometry, split = transposed(weight, geometry, split)
    side = split.rows(geometry)
    if side > options.exact_side and weight.dtype != np.float64:
        found = _in_float32(weight, geometry, split, rank, left, options)
        if found is not None:
            return found
    return exact_basis(unfold(weight, geometry, split), rank, left)


def _in_float32(
    weight: Array, geometry: ConvGeometry, split: Split, rank: int, left: bool, options: FitOptions
) -> Principal | None:
    """Find the directions in float32; None where the energies fall too steeply for it.

    None as well where a device takes the exact way, in float64.
    """
    largest = max(float(weight.max()), -float(weight.min()))
    # Squares must not leave float32's range; a plain layer is not touched.
    scale = np.float32(1.0 if 1e-6 < largest < 1e6 or largest == 0 else 1 / largest)
    matrix = Unfolding(weight, geometry, split, scale)
    if matrix.rows <= options.block_side or rank > _BLOCK_SHARE * matrix.rows:
        if accelerator(EIGEN * matrix.rows**3) is not None:
            return None
        with one_thread():
            form = Tridiagonal.of(gram(matrix.blocks, matrix.rows))
        gentle = form.values[rank - 1] > _GENTLE * form.values[0]
        return Reduced(matrix, form, left) if gentle else None
    blocks = matrix.kept()
    try:
        found = leading_basis(blocks, symmetric(gram(blocks, matrix.rows)), rank, left)
    except scipy.linalg.LinAlgError:  # the block lost rank: too few directions carry anything
        return None
    return found if scale == 1 or found is None else replace(found, inside=found.inside / scale)


def exact_basis(A: Array, rank: int, left: bool) -> Basis:
    """Return the principal directions of the rows of A (m, n), m <= n, in float64."""
    A = A.astype(np.float64)
    with one_thread():
        P = left_basis(A, len(A))
        inside = product(P.T, A)
    energies = np.einsum("ij,ij->i", inside, inside)
    return Basis(np.ascontiguousarray(P[:, :rank]), inside[:rank].copy(), left, energies, 0.0)


def gram(blocks: Blocks, side: int) -> Array:
    """Return the upper half of A A^T (side, side), float32, Fortran's order; A is given by its columns."""
    if accelerator(_BLOCK * side**2) is not None:
        total = SumOfProducts(side, side)
        for block in blocks():
            rows = block.T
            total.add(rows, rows)
        return np.triu(total.total()).astype(np.float32, order="F")
    G = np.zeros((side, side), dtype=np.float32, order="F")
    for block in blocks():
        G = blas.ssyrk(1.0, block.T, beta=1.0, c=G, trans=1, lower=0, overwrite_c=1)
    return G


def symmetric(G: Array) -> Array:
    """Copy the upper half of G to its lower half, in place, by tiles that stay in the cache."""
    step, n = 128, len(G)
    for start in range(0, n, step):
        stop = start + step
        tile = G[start:stop, start:stop]
        tile += np.triu(tile, 1).T
        for other in range(stop, n, step):
            G[other : other + step, start:stop] = G[start:stop, other : other + step].T
    return G


def leading_basis(blocks: Blocks, G: Array, rank: int, left: bool, seed: int = 0) -> Basis | None:
    """Find approximate leading directions of the rows of A, given by blocks of columns.

    Rounds of filter, orthonormalization and Rayleigh-Ritz, until the energy that is estimated to be missing
    is a small fraction of what the rank must lose. From the second round on the interval ends at the smallest
    Ritz value, which never exceeds the eigenvalue it stands for (Cauchy), so that nothing wanted is damped.

    Args:
        blocks: of A.
        G: A A^T (n, n), float32.
        rank: how many directions, by falling energy.
        left: see `Basis`.
        seed: of the random block.

    Returns:
        The basis, or None where the eigenvalues fall too steeply for float32.
    """
    n = len(G)
    rng = np.random.default_rng(seed)
    width = min(n, int(rank * _OVERSAMPLING) + 8)
    top, cut = spectral_quantile(G, width / n, rng)
    X, found = signed_sums(n, width, rng), None
    there = accelerator(n * n * width) is not None
    apply = partial(_filtered_there, Held(G)) if there else partial(filtered, G)
    for _ in range(_ROUNDS):
        if cut <= _STEEPEST * top:
            return None
        cut *= _CAUTION
        growth = float(np.arccosh(max(2 * top / cut - 1, 1 + 1e-6)))
        passes = -(-_DEGREE // int(np.clip(np.log(_GROWTH) / growth, 1, _DEGREE)))
        for _ in range(passes):
            X = orthonormal(apply(X, cut / 2, -(-_DEGREE // passes)))
        found, values, missing = ritz(blocks, X, rank, cut, left)
        if missing <= _TOLERANCE * found.rest:
            break
        top, cut = float(values[0]), float(values[-1])
    return found


def ritz(blocks: Blocks, X: Array, rank: int, floor: float, left: bool) -> tuple[Basis, Array, float]:
    """Rotate a block to the directions that carry most of A, and estimate what the leading ones miss.

    To first order an eigenvalue of A A^T exceeds its Ritz value by |residual|^2 / (distance to where the
    residual lies), with the residual (A - P P^T A) (P^T A)^T. It lies among the unwanted, so that the
    distance to where these begin makes the estimate a cautious one. Every eighth direction is looked at.

    Args:
        blocks: of A.
        X: (n, width), orthonormal but for what float32 left.
        rank: how many directions are kept.
        floor: where the unwanted eigenvalues begin.
        left: see `Basis`.

    Returns:
        The basis, all Ritz values by falling value, and the energy that is missing.
    """
    T = np.concatenate([product(X.T, block) for block in blocks()], axis=1)
    R = scipy.linalg.cholesky(product(X.T, X).astype(np.float64), overwrite_a=True, check_finite=False)
    inverse = scipy.linalg.solve_triangular(R, np.eye(len(R)), check_finite=False).astype(np.float32)
    values, Z = eigen_descending(inverse.T @ product(T, T.T) @ inverse)
    Z = inverse @ Z[:, :rank]
    P, inside = product(X, Z), product(Z.T, T)
    del T
    rest, start, sample = 0.0, 0, slice(rank - 1, None, -_SAMPLE)
    residual = np.zeros((len(P), len(range(rank)[sample])), dtype=np.float32)
    for block in blocks():
        stop = start + block.shape[1]
        outside = product(P, inside[:, start:stop])
        np.subtract(block, outside, out=outside)
        rest += float(np.sum(np.einsum("ij,ij->i", outside, outside), dtype=np.float64))
        residual += product(outside, inside[sample, start:stop].T)
        start = stop
    distance = np.maximum(values[:rank][sample] - floor, np.finfo(np.float32).eps * values[0])
    missing = _SAMPLE * float(np.sum(np.einsum("ij,ij->j", residual, residual) / distance))
    energies = np.einsum("ij,ij->i", inside, inside, dtype=np.float64)
    return Basis(P, inside, left, energies, rest), values, missing


def signed_sums(n: int, width: int, rng: np.random.Generator) -> Array:
    """Return a random block (n, width) with one entry, 1 or -1, in every row, spread evenly over the columns.

    As good a start as a Gaussian one (a count sketch: Clarkson and Woodruff, arXiv 1207.6365), and G times it
    is a few signed sums of columns instead of a product of matrices.
    """
    X = np.zeros((n, width), dtype=np.float32)
    columns = np.concatenate([rng.permutation(width) for _ in range(-(-n // width))])[:n]
    X[np.arange(n), columns] = rng.choice(np.array([-1, 1], dtype=np.float32), n)
    return X


def _image(G: Array, X: Array) -> Array:
    """Return G X, by sums of columns of the symmetric G where every row of X has a single entry."""
    columns = np.flatnonzero(X[0])
    if len(columns) != 1 or np.count_nonzero(X) != len(X):
        return G @ X
    rows, columns = np.nonzero(X)
    order = np.argsort(columns, kind="stable")
    starts = np.searchsorted(columns[order], np.arange(X.shape[1]))
    signs = X[rows[order], columns[order]]
    result = np.empty_like(X)
    for start in range(0, len(G), 512):
        tile = G[start : start + 512][:, rows[order]] * signs
        result[start : start + 512] = np.add.reduceat(tile, starts, axis=1)
    return result


def filtered(G: Array, X: Array, half: float, degree: int) -> Array:
    """Return T_degree(G / half - 1) X by the three-term recurrence, each step one matrix product in place."""
    c = np.float32(half)
    previous, current = np.ascontiguousarray(X), _image(G, X) / c - X
    for _ in range(degree - 1):
        # Transposed, since BLAS counts by columns: 2 (G / c - 1) current - previous, G symmetric.
        previous = blas.sgemm(2 / c, current.T, G, beta=-1.0, c=previous.T, overwrite_c=1).T
        blas.saxpy(current.ravel(), previous.ravel(), a=-2.0)
        previous, current = current, previous
    return current


def _filtered_there(G: Held, X: Array, half: float, degree: int) -> Array:
    """The same on a device."""
    c = np.float32(half)
    previous, current = X, (G @ X) / c - X
    for _ in range(degree - 1):
        previous, current = current, 2 * ((G @ current) / c - current) - previous
    return current


def orthonormal(X: Array) -> Array:
    """Return a basis of the columns of X by Cholesky QR, orthonormal up to what float32 leaves of it.

    The squared condition of a filtered block (`_GROWTH` times a small factor) is within float64. The basis is
    then orthonormal to about float32's eps times that condition, well conditioned, and `ritz` accounts for
    the rest (the second round of Yamamoto et al., 2015).
    """
    S = np.zeros((X.shape[1],) * 2)
    for start in range(0, len(X), 2048):
        rows = X[start : start + 2048].astype(np.float64)
        S += product(rows.T, rows)
    R = scipy.linalg.cholesky(S, overwrite_a=True, check_finite=False).astype(np.float32)
    solved: Array = scipy.linalg.solve_triangular(R, X.T, trans="T", check_finite=False).T
    return solved


def spectral_quantile(G: Array, fraction: float, rng: np.random.Generator) -> tuple[float, float]:
    """Estimate the largest eigenvalue, and the one that `fraction` of all eigenvalues exceed.

    Stochastic Lanczos quadrature: the Ritz values of a random vector, weighted by the squared first
    components of their vectors, are a Gauss quadrature of the spectral density.
    """
    steps, vectors = min(10, len(G)), 8
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
    return float(values[0]), float(np.interp(fraction, middle, values))
