"""Where the heavy arithmetic of a run is done: in NumPy and SciPy, or in PyTorch on a GPU.

Within `computing_on` the runners put networks on the device, and whoever has a large product, sum of products
or factorization of matrices asks here. What is small stays where it is, since the way to a device and back
takes longer; without a device everything is computed as NumPy and SciPy do. Precision is that of the arrays:
the reduced one that GPUs use for float32 by default (TF32) is off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from .errors import MissingExtraError, OptionError, option

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]

#: Multiplications from which a product is worth the way: a tenth of a second of two cores.
_WORTH = 1 << 32


@contextmanager
def computing_on(name: str | None) -> Iterator[None]:
    """Within the context networks and large matrices are computed on a device.

    Args:
        name: "cpu", "cuda" or "cuda:1"; None for the CPU. Of several processes that `torchrun` started, each
            takes the GPU of its number.

    Raises:
        OptionError: there is no such device, or it has too little memory.
        MissingExtraError: PyTorch is not installed.
    """
    found = None if name in (None, "cpu") else _gpu(name)
    before = _HERE.set(None if found is None else Elsewhere(found))
    try:
        if found is None:
            yield
        else:
            with _exact(), _told(str(found)):
                yield
    finally:
        _HERE.reset(before)


def place() -> torch.device | None:
    """The device in the present context; None for the CPU."""
    here = _HERE.get()
    return None if here is None else here.device


class Elsewhere:
    """Matrices on a device: arrays go in, arrays come out.

    Attributes:
        device: where they are computed.
    """

    def __init__(self, device: torch.device) -> None:
        """Compute on a device."""
        self.device = device

    def tensor(self, A: Array) -> Any:
        """An array there."""
        import torch  # noqa: PLC0415 - an extra

        # A copy where memory is read-only or runs backwards, which tensors cannot.
        plain = np.ascontiguousarray(A)
        return torch.from_numpy(plain if plain.flags.writeable else plain.copy()).to(self.device)

    def product(self, A: Array, B: Array) -> Array:
        """A B."""
        return _array(self.tensor(A) @ self.tensor(B))

    def eigh(self, S: Array) -> tuple[Array, Array]:
        """Eigenvalues of a symmetric matrix, smallest first, and their vectors.

        Raises:
            LinAlgError: they do not converge.
        """
        import torch  # noqa: PLC0415 - an extra

        try:
            values, vectors = torch.linalg.eigh(self.tensor(S))
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise scipy.linalg.LinAlgError(str(error)) from error
        return _array(values), _array(vectors)

    def cholesky(self, S: Array) -> Array:
        """The lower Cholesky factor.

        Raises:
            LinAlgError: S is not positive definite.
        """
        import torch  # noqa: PLC0415 - an extra

        L, info = torch.linalg.cholesky_ex(self.tensor(S))
        if int(info):
            raise scipy.linalg.LinAlgError(f"the leading minor {int(info)} is not positive definite")
        return _array(L)


_HERE: ContextVar[Elsewhere | None] = ContextVar("device", default=None)


def elsewhere(work: float) -> Elsewhere | None:
    """Where so many multiplications are computed; None for here."""
    here = _HERE.get()
    return here if here is not None and work >= _WORTH else None


def product(A: Array, B: Array) -> Array:
    """Return A B for matrices."""
    there = elsewhere(A.shape[0] * A.shape[1] * B.shape[-1])
    found: Array = A @ B if there is None else there.product(A, B)
    return found


class Held:
    """A matrix that many products take: a device gets it once."""

    def __init__(self, A: Array) -> None:
        """Hold a matrix, which must not change."""
        self.array = A
        self._there: Any = None

    def __matmul__(self, X: Array) -> Array:
        """Return A X."""
        A = self.array
        there = elsewhere(A.shape[0] * A.shape[1] * X.shape[-1])
        if there is None:
            found: Array = A @ X
            return found
        if self._there is None:
            self._there = there.tensor(A)
        return _array(self._there @ there.tensor(X))


class SumOfProducts:
    """A running sum of A^T B in float64; products are computed in the precision of A and B."""

    def __init__(self, rows: int, columns: int) -> None:
        """Begin with zeros, on the device of the context where products of a thousand rows are worth it."""
        self._there = elsewhere(1000 * rows * columns)
        if self._there is None:
            self._sum: Any = np.zeros((rows, columns))
        else:
            import torch  # noqa: PLC0415 - an extra

            self._sum = torch.zeros((rows, columns), dtype=torch.float64, device=self._there.device)

    def add(self, A: Array, B: Array) -> None:
        """Add A^T B."""
        if self._there is None:
            self._sum += A.T @ B
        else:
            first = self._there.tensor(A)
            self._sum += first.T @ (first if B is A else self._there.tensor(B))

    def total(self) -> Array:
        """The sum; of a sum that is here no copy."""
        return self._sum if self._there is None else _array(self._sum)


def _array(tensor: Any) -> Array:
    found: Array = tensor.cpu().numpy()
    return found


def _gpu(name: str | None) -> torch.device:
    try:
        from .distributed import device_of  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{option('device')}={name}", "PyTorch", "torch") from error
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    found = device_of(name, int(os.environ.get("LOCAL_RANK", "0")) if several else None)
    if found.type != "cuda":
        raise OptionError(f"{option('device')}: {name!r} is not one of them: cpu, cuda or cuda:NUMBER")
    return found


@contextmanager
def _exact() -> Iterator[None]:
    """Within the context float32 is float32."""
    import torch  # noqa: PLC0415 - an extra

    switches: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [one.allow_tf32 for one in switches]
    try:
        for one in switches:
            one.allow_tf32 = False
        yield
    finally:
        for one, value in zip(switches, before, strict=True):
            one.allow_tf32 = value


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Within the context errors of the device are ours."""
    import torch  # noqa: PLC0415 - an extra

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise OptionError(
            f"{option('device')}: {name} has too little memory: {' '.join(str(error).split())[:160]}; choose "
            "cpu, or a device with more"
        ) from error
