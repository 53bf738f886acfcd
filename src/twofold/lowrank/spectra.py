"""Orthonormal bases ordered by energy, and the fractions of energy that are lost where they are cut.

Source: Eckart and Young, 1936, for the optimum; the identity below is what keeps the numbers honest. For any
matrix A and any orthonormal P = [p_1 ... p_k], the best approximation of A in the span of the first r columns
is P_r P_r^T A, and by Pythagoras

    ||A - P_r P_r^T A||^2 = sum over i > r of ||p_i^T A||^2 + ||A - P P^T A||^2,

a sum of squares of computed numbers: no norm is subtracted from another, and an inexact P (from a Gram matrix
or a block method) changes how close the sum is to the optimum, never whether it is true.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import numpy as np
import scipy.linalg
from threadpoolctl import ThreadpoolController

from twofold.conv import Array
from twofold.device import accelerator, product

#: Multiplications of an eigenproblem with its vectors, by the cube of the side.
EIGEN = 4

_LIBRARIES = ThreadpoolController()  # after NumPy and SciPy have loaded theirs


def one_thread() -> AbstractContextManager[object]:
    """Keep BLAS to one thread: sums then do not depend on how many cores there are."""
    limited: AbstractContextManager[object] = _LIBRARIES.limit(limits=1, user_api="blas")
    return limited


def threads() -> int:
    """How many threads BLAS may take now."""
    return max((pool["num_threads"] for pool in _LIBRARIES.info() if pool["user_api"] == "blas"), default=1)


def eigen_descending(S: Array, count: int | None = None) -> tuple[Array, Array]:
    """Return the `count` largest eigenvalues of a symmetric matrix and their vectors, largest first.

    Args:
        S: (n, n), symmetric; may be overwritten.
        count: how many; None for all.
    """
    if (there := accelerator(EIGEN * len(S) ** 3)) is not None:
        values, vectors = there.eigh(S)
        return values[::-1][:count], vectors[:, ::-1][:, :count]
    # Some versions of SciPy give `evd` too little room where there is a single number.
    driver: Literal["evd", "ev"] = "evd" if len(S) > 1 else "ev"
    values, vectors = scipy.linalg.eigh(S, driver=driver, overwrite_a=True, check_finite=False)
    return values[::-1][:count], vectors[:, ::-1][:, :count]


def left_basis(A: Array, count: int) -> Array:
    """Return the leading left singular vectors of A (m, n) as (m, count), count at most min(m, n).

    A Gram matrix squares the condition, so directions below 1e-8 of the largest singular value are arbitrary
    (their energy is below rounding). Where m > n the QR decomposition first makes sure that the n vectors
    span the columns of A to rounding, which a Gram matrix of the longer side would not.
    """
    m, n = A.shape
    if m <= n:
        return eigen_descending(product(A, A.T), count)[1]
    Q, R = scipy.linalg.qr(A, mode="economic", check_finite=False)
    return Q @ eigen_descending(R @ R.T, count)[1]


def tail_energy_errors(energies: Array, rest: float = 0.0) -> Array:
    """Return the fraction of energy lost at every rank 0..k, from the energies of k components and of what is
    beyond.

    A law that tests check: never rises with the rank, and is 1 at rank 0 (0 everywhere for a zero matrix).
    """
    tails = rest + np.append(np.cumsum(energies[::-1], dtype=np.float64)[::-1], 0.0)
    return tails / tails[0] if tails[0] > 0 else np.zeros_like(tails)


def block_energy_errors(energies: Array, rest: float = 0.0) -> Array:
    """Two-dimensional `tail_energy_errors`: energy outside the leading (r1, r2) block of a table (k1, k2).

    Outside the block are all entries of the rows from r1 on, and the columns from r2 on of the rows before
    r1.

    Returns:
        (k1 + 1, k2 + 1).
    """
    k1, k2 = energies.shape
    below = np.append(np.cumsum(energies.sum(axis=1)[::-1])[::-1], 0.0)
    right = np.zeros((k1 + 1, k2 + 1))
    right[1:, :k2] = np.cumsum(np.cumsum(energies[:, ::-1], axis=1)[:, ::-1], axis=0)
    lost = rest + below[:, None] + right
    return lost / lost[0, 0] if lost[0, 0] > 0 else np.zeros_like(lost)
