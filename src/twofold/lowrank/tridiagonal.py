"""All eigenvalues of a symmetric matrix now, its leading vectors when they are asked for.

S = Q T Q^T with T tridiagonal costs one reduction, and T alone tells every eigenvalue: a third of the work of
the full eigenproblem. Only for vectors T is solved once more, and only those wanted are rotated back by Q,
which stays as the reflectors that the reduction leaves behind. So a spectrum that nobody cuts, as that of an
order of the axes that loses to the other, costs no vectors.
Source: Golub and Van Loan, Matrix Computations, section 8.3.1; Cuppen, 1981, for the vectors of T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.linalg import lapack

from twofold.conv import Array

_PANEL = 64  # columns that LAPACK gathers before it works on the rest: sets the size of its work space


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """A float32 matrix S (n, n), n at least 2, reduced to T.

    Attributes:
        values: (n,), its eigenvalues, largest first.
        diagonal: (n,), of T.
        beside: (n - 1,), T beside its diagonal.
        reflectors: vectors of the reflections, in the order and direction of a QR decomposition: what stands
            below the diagonal of (n - 1, n - 1), column by column.
        scales: (n - 1,), of the reflections.
    """

    values: Array
    diagonal: Array
    beside: Array
    reflectors: Array
    scales: Array

    @classmethod
    def of(cls, S: Array) -> Tridiagonal:
        """Reduce S, of which the upper half is read; a Fortran-ordered one is overwritten.

        Raises:
            LinAlgError: an eigenvalue did not converge.
        """
        # The upper half takes LAPACK a seventh less time than the lower one.
        reduced, diagonal, beside, scales, info = lapack.ssytrd(
            S, lower=0, lwork=_PANEL * len(S), overwrite_a=1
        )
        assert info == 0, f"Bug: ssytrd refuses its argument {-info}"
        values, info = lapack.ssterf(diagonal, beside)
        _converged(info, "ssterf")
        # Q = H(n-1) ... H(1), column i + 1 above the diagonal holding H(i): read backwards from the last row
        # but one, these are the reflections of a QR decomposition, which LAPACK applies.
        turned = reduced[:-1, 1:][::-1, ::-1]
        reflectors = np.concatenate([turned[i + 1 :, i] for i in range(len(turned))])
        return cls(values[::-1], diagonal, beside, reflectors, scales[::-1].copy())

    def vectors(self, count: int) -> Array:
        """Return the eigenvectors of the `count` largest eigenvalues: (n, count), orthonormal."""
        _, Z, info = _solve(self.diagonal, self.beside, compute_v=1)
        _converged(info, "sstevd")
        backwards = np.asfortranarray(Z[::-1, ::-1][:, :count])
        reflectors, start = np.zeros((len(self.scales),) * 2, dtype=np.float32, order="F"), 0
        for i in range(len(reflectors)):
            column = reflectors[i + 1 :, i]
            column[:] = self.reflectors[start : start + len(column)]
            start += len(column)
        # No reflection touches the last row.
        backwards[1:], _, info = lapack.sormqr(
            "L", "N", reflectors, self.scales, np.asfortranarray(backwards[1:]), lwork=_PANEL * count
        )
        assert info == 0, f"Bug: sormqr refuses its argument {-info}"
        return backwards[::-1]


#: Divide and conquer; old versions of SciPy have the slower QR iteration alone.
_solve = getattr(lapack, "sstevd", None) or lapack.sstev


def _converged(info: int, routine: str) -> None:
    if info:
        raise scipy.linalg.LinAlgError(f"{routine}: {info} eigenvalues did not converge")
