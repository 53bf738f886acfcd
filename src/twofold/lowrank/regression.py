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
measured as tr(D^T C D), D = W^T - W'^T: again nothing is subtracted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from twofold.conv import Array, ConvLayer, LayerStatistics, SecondPass
from twofold.errors import ModelError, OptionError
from twofold.lowrank.assemble import balance, checked_weight, pair_factors
from twofold.lowrank.covariance import PatchCovariance, live_variance, mean_variance, strip_covariance
from twofold.lowrank.options import FitOptions
from twofold.lowrank.spectra import left_basis
from twofold.lowrank.unfold import Split, fold, unfold

_LARGEST_RIDGE = 1e-2


@dataclass(frozen=True, eq=False)
class Regression:
    """The second convolution by least squares, for every rank up to R.

    Attributes:
        cholesky: (R * taps, R * taps), lower: K.
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
        K, G = self.cholesky[:n, :n], self.explained[:n]
        H: Array = scipy.linalg.solve_triangular(K, G, lower=True, trans="T", check_finite=False)
        return H.reshape(rank, self.taps, -1).swapaxes(1, 2).reshape(rank, -1)


def ridged_cholesky(name: str, build: Callable[[float], Array], ridge: float) -> tuple[Array, float]:
    """Cholesky factor of build(ridge), where the ridge is raised tenfold until it exists.

    Returns:
        The lower factor and the ridge that was used.

    Raises:
        ModelError: not even the largest ridge makes it positive definite.
    """
    while ridge <= _LARGEST_RIDGE:
        try:
            return scipy.linalg.cholesky(
                build(ridge), lower=True, overwrite_a=True, check_finite=False
            ), ridge
        except scipy.linalg.LinAlgError:
            ridge = max(10 * ridge, 1e-12)
    raise ModelError(
        f"{name}: the covariance of its inputs is not positive semidefinite even with a ridge of"
        f" {_LARGEST_RIDGE} of the mean variance; gather the statistics again"
    )


def first_factor(
    layer: ConvLayer, split: Split, rank: int, statistics: LayerStatistics, options: FitOptions
) -> tuple[Array, Array]:
    """Return V (rows, rank) and its partner H (rank, columns) in the whitened strips.

    Raises:
        ModelError: the inputs never vary.
    """
    variance = live_variance(layer, statistics)
    M = unfold(checked_weight(layer), layer.geometry, split).astype(np.float64)
    C1 = strip_covariance(statistics, layer.geometry, split)
    unit = np.eye(len(C1)) * (variance * split.taps(layer.geometry))
    L, _ = ridged_cholesky(layer.name, lambda ridge: C1 + ridge * unit, options.ridge)
    A = L.T @ M
    U = left_basis(A, rank)
    return scipy.linalg.solve_triangular(L, U, lower=True, trans="T", check_finite=False), U.T @ A


def regress(
    scheme: str, layer: ConvLayer, split: Split, V: Array, H0: Array, statistics: LayerStatistics,
    options: FitOptions, second_pass: SecondPass | None,
) -> tuple[Regression, PatchCovariance | None]:  # fmt: skip
    """Fit the second convolution to the layer's outputs, for every rank up to that of V.

    Args:
        scheme: name of the scheme.
        layer: the layer.
        split: how the kernel's axes are shared out.
        V: (rows, R).
        H0: (R, columns), a first guess; used where only a second pass over the data is possible.
        statistics: of the layer's inputs.
        options: numerical options.
        second_pass: gathers the covariance of z where `statistics` has no full covariance.
    """
    variance, taps = mean_variance(statistics), split.taps(layer.geometry)
    covariance = statistics.covariance
    if covariance is None:
        return _regress_again(scheme, layer, split, V, H0, statistics, options, second_pass), None
    W = checked_weight(layer).reshape(layer.geometry.c_out, -1).T.astype(np.float64)

    def patches(ridge: float) -> PatchCovariance:
        return PatchCovariance(covariance, ridge * variance, layer.geometry, split)

    K, ridge = ridged_cholesky(layer.name, lambda ridge: patches(ridge).projected(V), options.ridge)
    C = patches(ridge)
    G = scipy.linalg.solve_triangular(K, C.project(C.apply(W), V), lower=True, check_finite=False)
    whole = Regression(K, G, taps, 0.0, ridge)
    D = W - _dense(layer, split, V, whole.solve(V.shape[1]))
    return Regression(K, G, taps, C.energy(D), ridge), C


def _dense(layer: ConvLayer, split: Split, V: Array, H: Array) -> Array:
    """The pair as one convolution's weight, transposed: (d, C_out)."""
    return fold(V @ H, layer.geometry, split).reshape(layer.geometry.c_out, -1).T


def no_second_pass(layer: ConvLayer) -> str:
    """What to say where statistics have no covariance and no data are at hand."""
    return (
        f"{layer.name}: its covariance was over the memory limit and no second pass over the data is"
        " possible; raise the limit or give inputs that can be read twice"
    )


def _regress_again(
    scheme: str, layer: ConvLayer, split: Split, V: Array, H0: Array, statistics: LayerStatistics,
    options: FitOptions, second_pass: SecondPass | None,
) -> Regression:  # fmt: skip
    """The same regression from statistics of z that another pass over the data gathers.

    What is gathered is the remainder y - H0 z, not y: with B = S H0 + cov(z, y - H0 z) the regression of the
    remainder on z corrects H0, and the residual is the small remainder's energy less what z explains of it.
    (That one subtraction is between numbers of the residual's own size.)
    """
    if second_pass is None:
        raise OptionError(no_second_pass(layer))
    taps, r = split.taps(layer.geometry), V.shape[1]
    seen = second_pass(layer, pair_factors(scheme, layer, split, V, H0, statistics.mean))
    # The pair was balanced, which scaled z with the columns of V: undo that on what was gathered.
    undo = np.repeat(1 / balance(V, H0), taps)
    S = undo[:, None] * seen.covariance * undo
    unit = np.kron(V.T @ V, np.eye(taps)) * mean_variance(statistics)
    K, ridge = ridged_cholesky(layer.name, lambda ridge: S + ridge * unit, options.ridge)
    H = H0.reshape(r, -1, taps).swapaxes(1, 2).reshape(r * taps, -1)
    shift = ridge * mean_variance(statistics)
    D = unfold(checked_weight(layer), layer.geometry, split) - V @ H0
    projected = (V.T @ D).reshape(r, -1, taps).swapaxes(1, 2).reshape(r * taps, -1)
    remainder = scipy.linalg.solve_triangular(
        K, undo[:, None] * seen.remainder + shift * projected, lower=True, check_finite=False
    )
    G = K.T @ H + remainder
    residual = max(
        0.0, float(seen.remainder_energy) + shift * float(np.sum(D**2)) - float(np.sum(remainder**2))
    )
    return Regression(K, G, taps, residual, ridge)
