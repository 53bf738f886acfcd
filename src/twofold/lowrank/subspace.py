"""The principal basis of an unfolding."""

from __future__ import annotations

import numpy as np

from twofold.conv import Array, ConvGeometry
from twofold.lowrank.options import FitOptions
from twofold.lowrank.spectra import left_basis
from twofold.lowrank.unfold import Split, unfold


def principal_basis(
    weight: Array, geometry: ConvGeometry, split: Split, rank: int, options: FitOptions
) -> tuple[Array, bool, Array, float]:
    """Return an orthonormal basis of the unfolding's shorter side, by falling energy.

    Returns:
        The basis (rows or columns, k) with k >= rank, whether it belongs to the rows, the energy of each of its
        directions (k,), and the energy outside it.
    """
    M = unfold(weight, geometry, split).astype(np.float64)
    left = M.shape[0] <= M.shape[1]
    A = M if left else M.T
    P = left_basis(A, A.shape[0])
    return P, left, np.sum((P.T @ A) ** 2, axis=1), 0.0
