"""Sums of separable filters, fitted to data: the first two of three convolutions of the scheme `depthwise`.

A filter over channels and taps is separable if it is v (x) k, one vector over the channels times one over the
taps. r of them are the columns z_i of Z (d, r), and the last convolution U (C_out, r) makes the layer's
outputs of theirs: W ~ U Z^T, a canonical polyadic decomposition with the taps as one mode (Lebedev et al.,
arXiv 1412.6553, for weights). Here it is fitted to the outputs, with C the covariance of the patches.

**Variable projection** (Golub and Pereyra, 1973). Given Z the best U is linear least squares,
U^T = (S + R)^-1 Z^T C W^T with S = Z^T C Z and R a ridge, so that only Z is searched for. With D = W - U Z^T,

    f(Z) = tr(D C D^T) + sum over i of R_i |u_i|^2,        R_i = ridge * S_ii,
    df/dZ = 2 ridge * C Z diag |u_i|^2 - 2 C D^T U,

since f does not change to first order with U; the Khatri-Rao structure folds df/dZ back on v and k. L-BFGS
descends; an evaluation is one product C Z and little else.

**The ridge** is relative to each term, so that f does not depend on how a term's scale is shared out. It
bounds the energy of the terms, sum S_ii |u_i|^2 <= f / ridge: without it, terms may grow without limit and
cancel each other where the best approximation does not exist (de Silva and Lim, 2008).

**Accuracy.** f is a sum over the residual and no difference of norms, so float32 holds it to some 1e-10 of
the layer's energy; reported errors come from one more evaluation in float64, under the covariance as it is
held: rounded to float32 where it is large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.linalg
import scipy.optimize

from twofold.conv import Array
from twofold.device import Held, product
from twofold.lowrank.regression import ridged_cholesky
from twofold.lowrank.spectra import eigen_descending

#: Of the energy of each term. On HED's layers the energies of the terms then sum to at most twice that of the
#: layer; ten times the ridge loses up to a third more, on inputs that no fit has seen, too.
TERM_RIDGE = 1e-5
#: Patches of so many values are fitted in float64.
_DOUBLE = 256
#: Values of a matrix that are copied to another precision at a time.
_VALUES = 1 << 22
_TINY = 1e-30
_ASIDE = 1e-3


class Covariance(Protocol):
    """Covariance of patches whose values are ordered as (C_in, taps)."""

    def times(self, X: Array) -> Array:
        """Return C X for X (d, n), in the dtype of X."""

    def times_terms(self, terms: Terms) -> Array:
        """Return C Z (d, r), in the dtype of the terms."""

    def release(self) -> None:
        """Forget what only a search needs."""

    @property
    def marginals(self) -> tuple[Array, Array]:
        """Covariance of channels (C_in, C_in) and of taps, each a mean over the other."""


@dataclass(frozen=True, eq=False)
class Terms:
    """Separable filters.

    Attributes:
        V: (C_in, r), over the channels.
        K: (taps, r), over the taps.
    """

    V: Array
    K: Array

    @property
    def filters(self) -> Array:
        """Z (C_in * taps, r)."""
        return (self.V[:, None, :] * self.K[None, :, :]).reshape(-1, self.V.shape[1])

    def astype(self, dtype: type[np.floating]) -> Terms:
        """The same in another dtype."""
        return Terms(self.V.astype(dtype), self.K.astype(dtype))

    def take(self, columns: Array) -> Terms:
        """Some of the terms."""
        return Terms(self.V[:, columns], self.K[:, columns])

    def and_also(self, more: Terms) -> Terms:
        """These terms and others."""
        return Terms(np.hstack((self.V, more.V)), np.hstack((self.K, more.K)))


class DenseCovariance:
    """A full matrix (d, d) and a multiple of the identity."""

    def __init__(self, matrix: Array, shift: float, c_in: int) -> None:
        """Hold the matrix, which is not copied; its precision may be another than that of products."""
        self._matrix, self._shift, self._c_in = matrix, shift, c_in
        self._single: Held | None = None

    def times(self, X: Array) -> Array:
        """See `Covariance`."""
        applied = self._in_single() @ X if X.dtype == np.float32 else self._in_double(X)
        applied += X.dtype.type(self._shift) * X
        return applied

    def times_terms(self, terms: Terms) -> Array:
        """See `Covariance`."""
        return self.times(terms.filters)

    @property
    def marginals(self) -> tuple[Array, Array]:
        """See `Covariance`."""
        blocks = self._matrix.reshape(self._c_in, -1, self._c_in, len(self._matrix) // self._c_in)
        taps = blocks.shape[1]
        channels = np.einsum("aibi->ab", blocks, dtype=np.float64) / taps
        of_taps = np.einsum("aiaj->ij", blocks, dtype=np.float64) / self._c_in
        return channels + self._shift * np.eye(self._c_in), of_taps + self._shift * np.eye(taps)

    def release(self) -> None:
        """Forget what is held in single precision, which a search takes."""
        self._single = None

    def _in_single(self) -> Held:
        if self._single is None:
            self._single = Held(self._matrix.astype(np.float32, copy=False))
        return self._single

    def _in_double(self, X: Array) -> Array:
        """The matrix times X; some rows at a time where it is of single precision, since a copy is large."""
        if self._matrix.dtype == X.dtype:
            return product(self._matrix, X)
        step = max(_VALUES // len(self._matrix), 1)
        starts = range(0, len(self._matrix), step)
        return np.concatenate(
            [product(self._matrix[start : start + step].astype(X.dtype), X) for start in starts]
        )


@dataclass(frozen=True, eq=False)
class KroneckerCovariance:
    """Channels and taps that do not interact, such as the identity.

    Attributes:
        channels: (C_in, C_in).
        taps: (taps, taps).
    """

    channels: Array
    taps: Array

    def times(self, X: Array) -> Array:
        """See `Covariance`."""
        A, T = (array.astype(X.dtype, copy=False) for array in (self.channels, self.taps))
        left = (A @ X.reshape(len(A), -1)).reshape(len(A), len(T), -1)
        return np.asarray(np.matmul(T, left)).reshape(X.shape)

    def times_terms(self, terms: Terms) -> Array:
        """See `Covariance`."""
        A, T = (array.astype(terms.V.dtype, copy=False) for array in (self.channels, self.taps))
        return Terms(A @ terms.V, T @ terms.K).filters

    @property
    def marginals(self) -> tuple[Array, Array]:
        """See `Covariance`."""
        return self.channels, self.taps

    def release(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, eq=False)
class Solved:
    """Terms with their last convolution.

    Attributes:
        terms: the terms.
        outputs: U (C_out, r).
        variances: (r,), S_ii: variance of the output of each term.
        lost: tr(D C D^T).
    """

    terms: Terms
    outputs: Array
    variances: Array
    lost: float

    @property
    def energies(self) -> Array:
        """Energy of each term in the layer's outputs (r,)."""
        return np.asarray(np.sum(self.outputs**2, axis=0) * self.variances)


class TermProblem:
    """Terms for one weight and one covariance."""

    def __init__(self, name: str, weight: Array, covariance: Covariance, ridge: float = TERM_RIDGE) -> None:
        """Pose the problem.

        Args:
            name: of the layer, for messages.
            weight: W (C_out, C_in, taps).
            covariance: of its patches.
            ridge: multiple of each term's energy.
        """
        self._name, self._covariance, self._ridge = name, covariance, ridge
        self.shape = weight.shape
        self.W = np.ascontiguousarray(weight.reshape(len(weight), -1), dtype=np.float64)
        self._cross = covariance.times(self.W.T)
        self.energy = max(float(np.sum(self.W.T * self._cross)), 0.0)

    def start(self, rank: int, beside: Solved | None = None) -> Terms:
        """Terms to begin with: principal filters of what is left of the layer's outputs, split.

        With P the eigenvectors of D C D^T the rows of P^T D are filters whose outputs are uncorrelated. Each
        is split by an SVD into channels and taps, as if these did not interact, and the largest terms of all
        are kept.

        Args:
            rank: number of terms, those of `beside` not counted.
            beside: terms that stay; None for none.
        """
        D, DC = self.W, self._cross.T
        if beside is not None:
            D = D - beside.outputs @ beside.terms.filters.T
            DC = DC - beside.outputs @ self._covariance.times_terms(beside.terms).T
        _, P = eigen_descending(D @ DC.T)
        L, T = (_root(array) for array in self._covariance.marginals)
        filters = (P.T @ D).reshape(-1, *self.shape[1:])
        split = np.einsum("ab,jas,st->jbt", L, filters, T, optimize=True)
        left, values, right = np.linalg.svd(split, full_matrices=False)
        largest = np.argsort(-values, axis=None, kind="stable")[:rank]
        filter_of, index = np.unravel_index(largest, values.shape)
        V, K = (_off_saddle(array.T) for array in (left[filter_of, :, index], right[filter_of, index]))
        return Terms(_undone(L, V), _undone(T, K))

    def moved(self, solved: Solved, rank: int) -> Terms:
        """Terms of another rank: those of least energy dropped, or others added for what is left."""
        known = solved.terms.V.shape[1]
        if rank > known:
            return solved.terms.and_also(self.start(rank - known, solved))
        return solved.terms.take(np.sort(np.argsort(-solved.energies, kind="stable")[:rank]))

    def exact(self) -> Solved:
        """Terms whose sum is the weight: one-hot along two of its modes, the shortest."""
        outputs, inputs, taps = self.shape
        W = self.W.reshape(self.shape)
        if outputs >= max(inputs, taps):
            V, K = np.repeat(np.eye(inputs), taps, axis=1), np.tile(np.eye(taps), inputs)
            U = self.W
        elif inputs >= max(outputs, taps):
            V, K = W.transpose(1, 0, 2).reshape(inputs, -1), np.tile(np.eye(taps), outputs)
            U = np.repeat(np.eye(outputs), taps, axis=1)
        else:
            V, K = np.tile(np.eye(inputs), outputs), W.transpose(2, 0, 1).reshape(taps, -1)
            U = np.repeat(np.eye(outputs), inputs, axis=1)
        terms = Terms(V, K)
        CZ = self._covariance.times_terms(terms)
        return Solved(terms, U, np.maximum(np.einsum("ij,ij->j", terms.filters, CZ), _TINY), 0.0)

    def channel_variances(self, terms: Terms) -> Array:
        """Variance of v^T x for each term (r,)."""
        channels, _ = self._covariance.marginals
        V = terms.V.astype(np.float64)
        return np.asarray(np.einsum("ij,ij->j", V, channels @ V))

    def solve(self, terms: Terms) -> Solved:
        """The last convolution for some terms, in float64."""
        Z, CZ, U, variances = self._project(terms.astype(np.float64), self._cross)
        lost = float(np.sum((self.W.T - product(Z, U.T)) * (self._cross - product(CZ, U.T))))
        return Solved(terms, U, variances, max(lost, 0.0))

    def improve(self, terms: Terms, evaluations: int) -> tuple[Terms, list[float]]:
        """Descend from some terms.

        Args:
            terms: where to begin.
            evaluations: of f and its gradient, at most; then the best terms so far are returned.

        Returns:
            The terms, and the smallest f / energy after each evaluation.
        """
        dtype: type[np.floating] = np.float64 if self.W.shape[1] <= _DOUBLE else np.float32
        terms = self._scaled(terms, dtype).astype(np.float64)
        search = _Search(self, terms, dtype)
        scipy.optimize.minimize(
            search, np.concatenate((terms.V.ravel(), terms.K.ravel())), jac=True, method="L-BFGS-B",
            options={"maxfun": evaluations, "maxiter": evaluations, "ftol": 1e-10, "gtol": 0.0},
        )  # fmt: skip
        return search.best, search.history

    def release(self) -> None:
        """Forget what only a search needs."""
        self._covariance.release()

    def value(self, terms: Terms, data: tuple[Array, Array]) -> tuple[float, Array, Array]:
        """Evaluate f / energy and its gradients by V and K.

        Args:
            terms: the terms, in the dtype of the computation.
            data: what `relative` gives for that dtype.
        """
        target, cross = data
        Z, CZ, U, variances = self._project(terms, cross)
        squares = np.sum(U**2, axis=0)
        penalty = self._ridge * float(squares @ variances)
        U = U.astype(CZ.dtype)
        left, image = target - product(Z, U.T), cross - product(CZ, U.T)
        loss = float(np.sum(left * image, dtype=np.float64)) + penalty
        by_filters = CZ * (self._ridge * squares).astype(CZ.dtype) - product(image, U)
        by_filters = by_filters.reshape(*self.shape[1:], -1)
        by_channels = 2 * np.einsum("csr,sr->cr", by_filters, terms.K)
        by_taps = 2 * np.einsum("csr,cr->sr", by_filters, terms.V)
        return loss, by_channels, by_taps

    def _project(self, terms: Terms, cross: Array) -> tuple[Array, Array, Array, Array]:
        """Z, C Z, U and the variances of the terms; the last two in float64."""
        Z, CZ = terms.filters, self._covariance.times_terms(terms)
        S = product(Z.T, CZ).astype(np.float64)
        variances = np.maximum(S.diagonal(), _TINY)
        B = product(Z.T, cross).astype(np.float64)
        K, _ = ridged_cholesky(
            self._name, lambda ridge: S + np.diag(ridge * variances), self._ridge
        )  # fmt: skip
        return Z, CZ, scipy.linalg.cho_solve((K, True), B, check_finite=False).T, variances

    def _scaled(self, terms: Terms, dtype: type[np.floating]) -> Terms:
        """The same filters, scaled so that steps of one length change all of them about as much.

        f does not depend on scales, and curves the less the larger v and k are: its curvature is about the
        term's energy over their squares.
        """
        _, _, U, variances = self._project(terms.astype(dtype), self.relative(dtype)[1])
        energies = np.sum(U**2, axis=0) * variances
        size = np.maximum(energies, 1e-8 * max(float(energies.max()), _TINY)) ** 0.25
        norms = [np.maximum(np.linalg.norm(array, axis=0), _TINY) for array in (terms.V, terms.K)]
        size /= max(float(size.max()), _TINY)
        return Terms(terms.V * (size / norms[0]), terms.K * (size / norms[1]))

    def relative(self, dtype: type[np.floating]) -> tuple[Array, Array]:
        """W^T and C W^T in some dtype, in units in which the layer's energy is 1."""
        unit = 1 / np.sqrt(self.energy)
        return (unit * self.W.T).astype(dtype, order="C"), (unit * self._cross).astype(dtype, order="C")


class _Search:
    """f as the minimizer sees it: a function of one vector; keeps the best terms."""

    def __init__(self, problem: TermProblem, terms: Terms, dtype: type[np.floating]) -> None:
        self._problem, self._dtype = problem, dtype
        self._shapes = terms.V.shape, terms.K.shape
        self._data = problem.relative(dtype)
        self.best, self.history = terms, list[float]()

    def __call__(self, x: Array) -> tuple[float, Array]:
        cut = self._shapes[0][0] * self._shapes[0][1]
        terms = Terms(x[:cut].reshape(self._shapes[0]), x[cut:].reshape(self._shapes[1]))
        value, by_channels, by_taps = self._problem.value(terms.astype(self._dtype), self._data)
        if not self.history or value < self.history[-1]:
            self.best = Terms(terms.V.copy(), terms.K.copy())
        self.history.append(min(value, *self.history[-1:]) if self.history else value)
        return value, np.concatenate((by_channels.ravel(), by_taps.ravel())).astype(np.float64)


def _root(S: Array) -> Array:
    """L with L L^T = S + a little: of covariances that vary along few directions, too."""
    n = len(S)
    mean = float(np.trace(S)) / n
    if not mean > 0:
        return np.eye(n)
    unit = np.eye(n) * mean
    return ridged_cholesky("", lambda ridge: S + ridge * unit, 1e-6)[0]


def _off_saddle(X: Array) -> Array:
    """Unit vectors moved a little: where a weight has symmetries, f may be flat at what they suggest."""
    aside = np.random.default_rng(0).standard_normal(X.shape)
    return np.asarray(X + _ASIDE / np.sqrt(len(X)) * aside)


def _undone(L: Array, X: Array) -> Array:
    return np.asarray(scipy.linalg.solve_triangular(L, X, lower=True, trans="T", check_finite=False))
