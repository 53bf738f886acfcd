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

#: Multiplications from which a product is worth the way: a tenth of a second of two cores. Where one of the
#: matrices stays there for the next product, a sixteenth of it.
_WORTH, _HELD = 1 << 32, 1 << 28
#: Rows that are multiplied at a time where a sum of products is gathered, about.
_ROWS = 1000


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
    device = None if name in (None, "cpu") else _gpu(name)
    before = _CURRENT.set(None if device is None else Accelerator(device))
    try:
        if device is None:
            yield
        else:
            with _memory_told(str(device)), full_precision():
                yield
    finally:
        _CURRENT.reset(before)


def current_device() -> torch.device | None:
    """The device in the present context; None for the CPU."""
    current = _CURRENT.get()
    return None if current is None else current.device


class Accelerator:
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
        return _array(_multiplied(self.tensor(A), self.tensor(B)))

    def eigh(self, S: Array) -> tuple[Array, Array]:
        """Eigenvalues of a symmetric matrix, smallest first, and their vectors.

        Raises:
            LinAlgError: they do not converge.
        """
        import torch  # noqa: PLC0415 - an extra

        failed: type[Exception] = vars(torch.linalg)["LinAlgError"]
        try:
            values, vectors = torch.linalg.eigh(self.tensor(S))
        except failed as error:
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


_CURRENT: ContextVar[Accelerator | None] = ContextVar("device", default=None)


def accelerator(work: float, *, held: bool = False) -> Accelerator | None:
    """Where so many multiplications are computed; None for NumPy.

    Args:
        work: how many.
        held: whether a matrix stays on the device for the next.
    """
    current = _CURRENT.get()
    return current if current is not None and work >= (_HELD if held else _WORTH) else None


def product(A: Array, B: Array) -> Array:
    """Return A B for matrices."""
    device = accelerator(A.shape[0] * A.shape[1] * B.shape[-1])
    result: Array = A @ B if device is None else device.product(A, B)
    return result


class Held:
    """A matrix that many products take: a device gets it once."""

    def __init__(self, A: Array) -> None:
        """Hold a matrix, which must not change."""
        self.array = A
        self._tensor: Any = None

    def __matmul__(self, X: Array) -> Array:
        """Return A X."""
        A = self.array
        device = accelerator(A.shape[0] * A.shape[1] * X.shape[-1], held=True)
        if device is None:
            result: Array = A @ X
            return result
        if self._tensor is None:
            self._tensor = device.tensor(A)
        return _array(_multiplied(self._tensor, device.tensor(X)))


class SumOfProducts:
    """A running sum of A^T B in float64; products are computed in the precision of A and B."""

    def __init__(self, rows: int, columns: int) -> None:
        """Begin with zeros, on the device of the context where the products are worth it."""
        self._device = accelerator(_ROWS * rows * columns, held=True)
        if self._device is None:
            self._sum: Any = np.zeros((rows, columns))
        else:
            import torch  # noqa: PLC0415 - an extra

            self._sum = torch.zeros((rows, columns), dtype=torch.float64, device=self._device.device)

    def add(self, A: Array, B: Array) -> None:
        """Add A^T B."""
        if self._device is None:
            self._sum += A.T @ B
        else:
            first = self._device.tensor(A)
            self._sum += _multiplied(first.T, first if B is A else self._device.tensor(B))

    def total(self) -> Array:
        """The sum; where it is an array, the one that is added to."""
        return self._sum if self._device is None else _array(self._sum)


def _multiplied(A: Any, B: Any) -> Any:
    """A B of tensors, in the wider of their types, as NumPy has it."""
    import torch  # noqa: PLC0415 - an extra

    dtype = torch.promote_types(A.dtype, B.dtype)
    return A.to(dtype) @ B.to(dtype)


def _array(tensor: Any) -> Array:
    array: Array = tensor.cpu().numpy()
    return array


def _gpu(name: str | None) -> torch.device:
    try:
        from .distributed import device_of  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{option('device')}={name}", "PyTorch", "torch") from error
    import torch  # noqa: PLC0415 - an extra

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    device = device_of(name, int(os.environ.get("LOCAL_RANK", "0")) if several else None)
    if device.type != "cuda":
        raise OptionError(f"{option('device')}: {name!r} is not one of them: cpu, cuda or cuda:NUMBER")
    # One number for PyTorch and ONNX Runtime.
    return device if device.index is not None else torch.device("cuda", torch.cuda.current_device())


@contextmanager
def full_precision() -> Iterator[None]:
    """Within the context a GPU computes float32 in full."""
    switches, name, full = _switches()
    before = [getattr(one, name) for one in switches]
    token = _BEFORE.set(before)
    try:
        with _switched([full] * len(switches)):
            yield
    finally:
        _BEFORE.reset(token)


@contextmanager
def as_deployed() -> Iterator[None]:
    """Within the context a GPU computes as it did before `full_precision`: what is timed is deployed so."""
    with _switched(_BEFORE.get()):
        yield


#: What the switches said before `full_precision`.
_BEFORE: ContextVar[list[Any] | None] = ContextVar("before", default=None)


@contextmanager
def _switched(values: list[Any] | None) -> Iterator[None]:
    """Within the context the switches say something else; None for what they say."""
    switches, name, _ = _switches()
    before = [getattr(one, name) for one in switches]
    try:
        for one, value in zip(switches, before if values is None else values, strict=True):
            setattr(one, name, value)
        yield
    finally:
        for one, value in zip(switches, before, strict=True):
            setattr(one, name, value)


def _switches() -> tuple[list[Any], str, Any]:
    """Where PyTorch is told the precision of float32, by which name, and what is full."""
    import torch  # noqa: PLC0415 - an extra

    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    if hasattr(matmul, "fp32_precision") and hasattr(cudnn, "conv"):
        return [matmul, cudnn.conv, cudnn.rnn], "fp32_precision", "ieee"
    return [matmul, cudnn], "allow_tf32", False


@contextmanager
def _memory_told(name: str) -> Iterator[None]:
    """Within the context a device that is full is an error of ours."""
    import torch  # noqa: PLC0415 - an extra

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise OptionError(
            f"{option('device')}: {name} has too little memory: {' '.join(str(error).split())[:160]}; choose "
            "cpu, or a device with more"
        ) from error
