"""PyTorch in eager mode, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ...errors import ModelError
from ...formats.torch.layer_types import convolve
from ..stacks import Stack
from .base import Run, Whole, cpu_name


class TorchRuntime:
    """A device of PyTorch."""

    name = "torch"
    label = "PyTorch CPU"
    block = 16
    reads = ("torch",)
    version: str = torch.__version__
    where = torch.device("cpu")

    @property
    def device(self) -> str:
        """See `Runtime.device`."""
        return cpu_name()

    def finish(self) -> None:
        """Wait for what runs."""

    @contextmanager
    def running(self, threads: int) -> Iterator[None]:
        """See `Runtime.running`."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def stack(self, stack: Stack, threads: int) -> Run:
        """See `Runtime.stack`."""
        x = torch.from_numpy(stack.input()).to(self.where)
        steps = [
            (geometry, [torch.from_numpy(a).to(self.where) for a in arrays if a is not None])
            for geometry, arrays in zip(stack.chain, stack.weights(), strict=True)
        ]

        def forward() -> Tensor:
            value = x
            for geometry, parameters in steps:
                value = convolve(geometry, value, *parameters)
            return value

        return self._timed(forward)

    def whole(self, whole: Whole, threads: int) -> Run:
        """See `Runtime.whole`."""
        return self._timed(whole.content(self.where))

    def _timed(self, forward: Callable[[], object]) -> Run:
        def run() -> None:
            with torch.inference_mode():
                forward()
            self.finish()

        try:
            run()
        except Exception as error:  # whatever a forward raises
            raise ModelError(f"{self.label} cannot run the model: {error}") from error
        return run


def make_runtime() -> TorchRuntime:
    """See `runtimes.runtime`."""
    return TorchRuntime()
