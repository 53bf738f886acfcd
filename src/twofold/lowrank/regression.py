"""Both factors of a data-aware pair in closed form: first the strips, then a regression.

**First factor.** Let p_b be the strip of a patch at tap b of the second convolution, M_b the columns of the
unfolding M at that tap, and let the first convolution give z_b = V^T p_b. With the strips taken as
uncorrelated and each with the mean covariance C1 / taps, the output error is

    sum over b of E ||(M_b - V H_b)^T p_b||^2  ~  ||L^T (M - V H)||_F^2 / taps,   C1 = L L^T,

whose optimum is the truncated SVD of the whitened unfolding L^T M = U S Z^T: V = L^-T U_r, nested in r. (The
strips of neighbouring taps overlap and do correlate, so this is where the method is not optimal; `refine`
gains 6 to 30 % of the energy error on HED's layers.)

**Second factor.** Given V, the output is linear in z = (z_1, ..., z_taps), so H is the least-squares solution
of S H = B with S = cov(z), B = cov(z, y). Ordered rank-major, z of rank r is a prefix of z of the largest
rank R. With the Cholesky factor S = K K^T the leading block of K is the Cholesky factor of the leading block
of S, and the leading rows of G = K^-1 B are K_r^-1 B_r. One factorization therefore serves every rank:

    H_r = K_r^-T G_r,    variance of the output explained at rank r = ||G_r||_F^2,

and the error at rank r is the sum of squares of the rows of G beyond r plus the residual at rank R, which is
measured as tr(D^T C D), D = W^T - W'^T: again no norm is subtracted from another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg

from twofold.conv import Array, ConvLayer, FactorStatistics
from twofold.device import accelerator, product
from twofold.errors import ModelError
from twofold.lowrank.assemble import balance, pair_factors
from twofold.lowrank.covariance import strip_covariance
from twofold.lowrank.problem import Problem
from twofold.lowrank.protocols import Begun, Factorization
from twofold.lowrank.spectra import left_basis
from twofold.lowrank.unfold import Split, fold, unfold

_LARGEST_RIDGE = 1e-2
#: Shares of the energy below which rounding shows in sums that need what is left to be uncorrelated.
_ROUNDED = 1e-6


@dataclass(frozen=True, eq=False)
class Regression:
    """The second convolution by least squares, for every rank up to R.

    Attributes:
        cholesky: rows of the lower K (R * taps, R * taps), one after the other up to the diagonal.
        explained: (R * taps, C_out): G.
        taps: kernel positions of the second convolution.
        residual: output variance that rank R leaves.
        ridge: multiple of the mean input variance that was added to the covariance.
    """

    cholesky: Array
    explained: Array
    taps: int
    residual: float
    ridge: float

    def energies(self, outputs: Array | None = None) -> Array:
        """Output variance that each rank adds, per output or per column of `outputs`, a basis: (R, C_out)."""
        G = self.explained if outputs is None else self.explained @ outputs
        return np.asarray(np.sum(G.reshape(-1, self.taps, G.shape[1]) ** 2, axis=1))

    def solve(self, rank: int) -> Array:
        """Return H (rank, C_out * taps) for the leading `rank` columns of V."""
        n = rank * self.taps
        K, G = np.zeros((n, n)), self.explained[:n]
        for i in range(n):
            K[i, : i + 1] = self.cholesky[i * (i + 1) // 2 :][: i + 1]
        H: Array = scipy.linalg.solve_triangular(K, G, lower=True, trans="T", check_finite=False)
        return H.reshape(rank, self.taps, -1).swapaxes(1, 2).reshape(rank, -1)


def _rows(K: Array) -> Array:
    """Half the memory: see `Regression`."""
    return np.concatenate([row[: i + 1] for i, row in enumerate(K)])


def ridged_cholesky(name: str, build: Callable[[float], Array], ridge: float) -> tuple[Array, float]:
    """Cholesky factor of build(ridge), where the ridge is raised tenfold until it exists.

    Returns:
        The lower factor and the ridge that was used.

    Raises:
        ModelError: not even the largest ridge makes it positive definite.
    """
    while ridge <= _LARGEST_RIDGE:
        try:
            return _cholesky(build(ridge)), ridge
        except scipy.linalg.LinAlgError:
            ridge = max(10 * ridge, 1e-12)
    raise ModelError(
        f"{name}: the covariance of its inputs is not positive semidefinite even with a ridge of"
        f" {_LARGEST_RIDGE} of the mean variance; gather the statistics again"
    )


def _cholesky(S: Array) -> Array:
    if (there := accelerator(len(S) ** 3 / 3)) is not None:
        return there.cholesky(S)
    return scipy.linalg.cholesky(S, lower=True, overwrite_a=True, check_finite=False)


@dataclass(frozen=True, eq=False)
class FirstFactor:
    """The first convolution, from the whitened strips.

    Attributes:
        V: (rows, R), nested.
        directions: U_r (rows, R).
        whitened: L^T M (rows, columns).
    """

    V: Array
    directions: Array
    whitened: Array

    @property
    def partner(self) -> Array:
        """What goes with V in the whitened strips: H (R, columns)."""
        return self.directions.T @ self.whitened


def first_factor(problem: Problem, split: Split, rank: int) -> FirstFactor:
    """The first convolution for every rank up to `rank`.

    Raises:
        ModelError: the inputs never vary.
    """
    layer = problem.layer
    M = unfold(problem.weight, layer.geometry, split).astype(np.float64)
    C1 = strip_covariance(problem.seen, layer.geometry, split)
    unit = np.eye(len(C1)) * (problem.live_variance * split.taps(layer.geometry))
    L, _ = ridged_cholesky(layer.name, lambda ridge: C1 + ridge * unit, problem.options.ridge)
    A = product(L.T, M)
    U = left_basis(A, rank)
    return FirstFactor(scipy.linalg.solve_triangular(L, U, lower=True, trans="T", check_finite=False), U, A)


def regress(problem: Problem, split: Split, V: Array) -> Regression:
    """Fit the second convolution to the layer's outputs, for every rank up to that of V (rows, R)."""
    geometry, taps = problem.layer.geometry, split.taps(problem.layer.geometry)
    K, ridge = ridged_cholesky(
        problem.layer.name, lambda ridge: problem.patches(split, ridge).projected(V), problem.options.ridge
    )
    C, cross, W = problem.patches(split, ridge), problem.cross(ridge), problem.W.T
    G = scipy.linalg.solve_triangular(K, C.project(cross, V), lower=True, check_finite=False)
    found = Regression(_rows(K), G, taps, 0.0, ridge)
    D = W - fold(V @ found.solve(V.shape[1]), geometry, split).reshape(geometry.c_out, -1).T
    # What is left is uncorrelated with z, so tr(D^T C D) = tr(D^T C W^T), as far as rounding leaves it so.
    residual = float(np.sum(D * cross))
    if residual < _ROUNDED * float(np.sum(W * cross)):
        residual = C.energy(D)
    return replace(found, residual=residual)


def second_factor(
    problem: Problem, scheme: str, split: Split, rank: int, then: Callable[[Array, Regression], Factorization]
) -> Factorization | Begun:
    """Both steps: gives V and the regression on what it makes of the inputs to `then`."""
    first = first_factor(problem, split, rank)
    V = first.V
    if not problem.over_the_limit:
        return then(V, regress(problem, split, V))
    H0 = first.partner
    return Begun(
        pair_factors(scheme, problem.layer, split, V, H0, problem.mean),
        lambda behind: then(V, regress_seen(problem, split, V, H0, behind)),
    )


def no_second_pass(layer: ConvLayer) -> str:
    """What to say where statistics have no covariance and no data are at hand."""
    return (
        f"{layer.name}: its covariance was over the memory limit and no second pass over the data is"
        " possible; raise the limit or give inputs that can be read twice"
    )


def regress_seen(problem: Problem, split: Split, V: Array, H0: Array, seen: FactorStatistics) -> Regression:
    """The same regression from statistics of z that another pass over the data gathered.

    What was gathered is the remainder y - H0 z, not y: with B = S H0 + cov(z, y - H0 z) the regression of the
    remainder on z corrects H0, and the residual is the small remainder's energy less what z explains of it.
    (That one subtraction is between numbers of the residual's own size.)

    Args:
        problem: the layer.
        split: how the kernel's axes are shared out.
        V: (rows, R).
        H0: (R, columns), of the pair that was looked behind.
        seen: what was gathered.
    """
    layer, variance = problem.layer, problem.variance
    taps, r = split.taps(layer.geometry), V.shape[1]
    # The pair was balanced, which scaled z with the columns of V: undo that on what was gathered.
    undo = np.repeat(1 / balance(V, H0), taps)
    S = undo[:, None] * seen.covariance * undo
    unit = np.kron(V.T @ V, np.eye(taps)) * variance
    K, ridge = ridged_cholesky(layer.name, lambda ridge: S + ridge * unit, problem.options.ridge)
    H = H0.reshape(r, -1, taps).swapaxes(1, 2).reshape(r * taps, -1)
    shift = ridge * variance
    D = unfold(problem.weight, layer.geometry, split) - V @ H0
    projected = (V.T @ D).reshape(r, -1, taps).swapaxes(1, 2).reshape(r * taps, -1)
    remainder = scipy.linalg.solve_triangular(
        K, undo[:, None] * seen.remainder + shift * projected, lower=True, check_finite=False
    )
    G = K.T @ H + remainder
    residual = max(
        0.0, float(seen.remainder_energy) + shift * float(np.sum(D**2)) - float(np.sum(remainder**2))
    )
    return Regression(_rows(K), G, taps, residual, ridge)
