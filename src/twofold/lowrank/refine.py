"""Alternating least squares after the closed form: first factor given the second, then the second again.

The output error tr(D^T C D), D = W^T - W'^T, is quadratic in either factor. Given H the normal equations of V
are

    A(V) = A_W,    A(X)[row, k] = sum over taps b, outputs o of (C unfold^-1(X H))[row, b, o] H[k, o, b],

too large to factor, so conjugate gradients solve them, preconditioned by the Kronecker product C1 (x) H H^T
that A would be if strips of different taps were uncorrelated. Every step lowers the error: never worse.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg

from twofold.conv import Array
from twofold.lowrank.covariance import PatchCovariance
from twofold.lowrank.unfold import fold, unfold

_Operator = Callable[[Array], Array]
_CG_STEPS = 12


def _applied(C: PatchCovariance, M: Array) -> Array:
    """Apply the patch covariance to an unfolding (rows, columns)."""
    geometry = C.geometry
    patches = fold(M, geometry, C.split).reshape(geometry.c_out, -1)
    return unfold(C.apply(patches.T).T.reshape(geometry.weight_shape), geometry, C.split)


def first_given_second(M: Array, C: PatchCovariance, V: Array, H: Array) -> Array:
    """Improve V (rows, r) for a fixed H (r, columns) by preconditioned conjugate gradients."""
    taps = C.split.taps(C.geometry)
    strips = np.mean([C.tap_block(b, b) for b in range(taps)], axis=0)
    tiny = np.finfo(np.float64).eps * len(H)
    gram = H @ H.T
    gram.flat[:: len(H) + 1] += tiny * np.trace(gram)
    left, right = scipy.linalg.cho_factor(strips), scipy.linalg.cho_factor(gram)

    def precondition(X: Array) -> Array:
        half = scipy.linalg.cho_solve(left, X, check_finite=False)
        return np.asarray(scipy.linalg.cho_solve(right, half.T, check_finite=False).T)

    return _conjugate_gradients(
        lambda X: _applied(C, X @ H) @ H.T, _applied(C, M - V @ H) @ H.T, V, precondition, _CG_STEPS
    )


def _conjugate_gradients(
    apply: _Operator, residual: Array, X: Array, precondition: _Operator, steps: int
) -> Array:
    """Preconditioned conjugate gradients from X, whose residual is given."""
    Z = precondition(residual)
    direction, rho = Z, float(np.sum(residual * Z))
    start = rho
    for _ in range(steps):
        if not rho > 1e-10 * start > 0:
            break
        image = apply(direction)
        step = rho / float(np.sum(direction * image))
        X = X + step * direction
        residual = residual - step * image
        Z = precondition(residual)
        rho, previous = float(np.sum(residual * Z)), rho
        direction = Z + (rho / previous) * direction
    return X


def second_given_first(M: Array, C: PatchCovariance, V: Array) -> tuple[Array, Array]:
    """Least-squares H for a fixed V, with the Cholesky factor of cov(z).

    Returns:
        H (r * taps, C_out) and K (r * taps, r * taps), both rank-major.
    """
    W = fold(M, C.geometry, C.split).reshape(C.geometry.c_out, -1).T
    K = scipy.linalg.cholesky(C.projected(V), lower=True, overwrite_a=True, check_finite=False)
    B = C.project(C.apply(W), V)
    return scipy.linalg.cho_solve((K, True), B, check_finite=False), K


def as_unfolded(H: Array, rank: int) -> Array:
    """Rank-major (r * taps, C_out) as the second factor (r, C_out * taps)."""
    return H.reshape(rank, -1, H.shape[1]).swapaxes(1, 2).reshape(rank, -1)


def refined_pair(weight: Array, C: PatchCovariance, V: Array, H: Array, rounds: int) -> tuple[Array, Array]:
    """Alternate `rounds` times.

    Args:
        weight: (C_out, C_in, *kernel).
        C: covariance of the patches.
        V: (rows, r).
        H: (r, columns).
        rounds: how often; fewer where the covariance is singular to working precision.
    """
    M = unfold(weight, C.geometry, C.split).astype(np.float64)
    try:
        for _ in range(rounds):
            better = first_given_second(M, C, V, H)
            better = scipy.linalg.qr(better, mode="economic", check_finite=False)[0]
            V, H = better, as_unfolded(second_given_first(M, C, better)[0], better.shape[1])
    except scipy.linalg.LinAlgError:
        pass  # inputs that vary along few directions: what there is stays
    return V, H
