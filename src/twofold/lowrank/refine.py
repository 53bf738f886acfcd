"""Alternating least squares after the closed form: first factor given the second, then the second again.

The output error tr(D^T C D), D = W^T - W'^T, is quadratic in either factor. With C_bc the covariance between
the strips at taps b and c of the second convolution and H_b (r, C_out) that convolution at tap b, the normal
equations of V (rows, r) given H are

    A(V) = sum over taps b of (C W^T)_b H_b^T,        A(X) = sum over taps b, c of C_bc X H_c H_b^T,

too large to factor, so conjugate gradients solve them, preconditioned by the Kronecker product C1 (x) H H^T
that A would be if strips of different taps were uncorrelated. Every step lowers the error: never worse. A
step is one product of C with r columns. On large patches it is taken in float32, which only moves where the
steps lead: whatever V they give, H is then the best for it, found in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg

from twofold.conv import Array
from twofold.device import Held
from twofold.lowrank.covariance import DOUBLE, PatchCovariance
from twofold.lowrank.unfold import unfold

_Operator = Callable[[Array], Array]
_CG_STEPS = 6  # all but 0.3 % of what twelve gain, on HED


class Alternations:
    """One layer under one covariance, ready for any number of steps."""

    def __init__(self, weight: Array, C: PatchCovariance, cross: Array) -> None:
        """Do what all steps share.

        Args:
            weight: (C_out, C_in, *kernel).
            C: covariance of the patches.
            cross: C W^T (d, C_out).
        """
        self._C, self._taps, self._cross = C, C.split.taps(C.geometry), cross
        dtype = np.float64 if len(cross) <= DOUBLE else np.float32
        self._M = unfold(weight, C.geometry, C.split).astype(np.float64)
        by_taps = C.by_taps(dtype)
        self._dtype, self._by_taps = by_taps.dtype, [Held(of_tap) for of_tap in by_taps]
        strips = np.mean([C.tap_block(b, b) for b in range(self._taps)], axis=0)
        self._strips = scipy.linalg.cho_factor(strips.astype(dtype), overwrite_a=True)

    def first(self, V: Array, H: Array) -> Array:
        """Improve V (rows, r) for a fixed H (r, C_out * taps)."""
        left = self._applied(self._M - V @ H)
        H = self._tap_by_tap(H)
        taps, r = H.shape[:2]
        products = (H.reshape(taps * r, -1) @ H.reshape(taps * r, -1).T).reshape(taps, r, taps, r)

        def normal(X: Array) -> Array:
            found = np.zeros_like(X)
            for b, of_tap in enumerate(self._by_taps):
                found += of_tap @ np.matmul(X, products[:, :, b]).reshape(-1, r)
            return found

        gram = np.einsum("bkbl->kl", products).copy()
        gram.flat[:: r + 1] += np.finfo(gram.dtype).eps * r * np.trace(gram)
        right = scipy.linalg.cho_factor(gram, overwrite_a=True)

        def precondition(X: Array) -> Array:
            half = scipy.linalg.cho_solve(self._strips, X, check_finite=False)
            return np.asarray(scipy.linalg.cho_solve(right, half.T, check_finite=False).T)

        residual = np.einsum("bmo,bko->mk", left, H, optimize=True)
        return V + _conjugate_gradients(normal, residual, precondition, _CG_STEPS)

    def _applied(self, unfolded: Array) -> Array:
        """C times what is left of the unfolding: (taps, rows, C_out)."""
        left = self._tap_by_tap(unfolded)
        columns = left.reshape(-1, left.shape[2])
        return np.stack([of_tap @ columns for of_tap in self._by_taps])

    def _tap_by_tap(self, unfolded: Array) -> Array:
        """An unfolding (n, C_out * taps) as (taps, n, C_out), in the dtype of the steps."""
        cut = np.moveaxis(unfolded.reshape(len(unfolded), -1, self._taps), 2, 0)
        return cut.astype(self._dtype, order="C")

    def second(self, V: Array) -> tuple[Array, Array, Array]:
        """The span of V with the least-squares H for it, and the Cholesky factor of cov(z).

        Returns:
            V (rows, r), orthonormal; H (r * taps, C_out) and K (r * taps, r * taps), both rank-major.
        """
        V = scipy.linalg.qr(V, mode="economic", check_finite=False)[0]
        K = scipy.linalg.cholesky(self._C.projected(V), lower=True, overwrite_a=True, check_finite=False)
        H = scipy.linalg.cho_solve((K, True), self._C.project(self._cross, V), check_finite=False)
        # Once more for what is left, since C may be held in float32, and the cross covariance was not.
        left = self._applied(self._M - V @ as_unfolded(H, V.shape[1]))
        again = np.einsum("mk,bmo->kbo", V, left, optimize=True).reshape(H.shape)
        return V, H + scipy.linalg.cho_solve((K, True), again, check_finite=False), K


def _conjugate_gradients(apply: _Operator, residual: Array, precondition: _Operator, steps: int) -> Array:
    """Preconditioned conjugate gradients: the way from where the residual was taken."""
    X, Z = np.zeros_like(residual), precondition(residual)
    direction, rho = Z, _inner(residual, Z)
    start = rho
    for _ in range(steps):
        if not rho > 1e-10 * start > 0:
            break
        image = apply(direction)
        step = X.dtype.type(rho / _inner(direction, image))
        X = X + step * direction
        residual = residual - step * image
        Z = precondition(residual)
        rho, previous = _inner(residual, Z), rho
        direction = Z + X.dtype.type(rho / previous) * direction
    return X


def _inner(A: Array, B: Array) -> float:
    return float(np.sum(A * B, dtype=np.float64))


def as_unfolded(H: Array, rank: int) -> Array:
    """Rank-major (r * taps, C_out) as the second factor (r, C_out * taps)."""
    return H.reshape(rank, -1, H.shape[1]).swapaxes(1, 2).reshape(rank, -1)


def refined_pair(
    weight: Array, C: PatchCovariance, cross: Array, V: Array, H: Array, rounds: int
) -> tuple[Array, Array]:
    """Alternate `rounds` times.

    Args:
        weight: (C_out, C_in, *kernel).
        C: covariance of the patches.
        cross: C W^T (d, C_out).
        V: (rows, r).
        H: (r, columns).
        rounds: how often; fewer where the covariance is singular to working precision.
    """
    try:
        alternations = Alternations(weight, C, cross)
        for _ in range(rounds):
            V, flat, _ = alternations.second(alternations.first(V, H))
            H = as_unfolded(flat, V.shape[1])
    except scipy.linalg.LinAlgError:
        pass  # inputs that vary along few directions: what there is stays
    return V, H
