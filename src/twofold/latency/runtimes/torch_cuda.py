"""PyTorch in eager mode, on a CUDA GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ...device import as_deployed
from ...errors import OptionError
from .torch_cpu import TorchRuntime


class CudaRuntime(TorchRuntime):
    """The current CUDA device; every run is waited for."""

    name = "torch-cuda"
    label = "PyTorch CUDA"
    block = 8
    where = torch.device("cuda")

    @property
    def device(self) -> str:
        """See `Runtime.device`."""
        return torch.cuda.get_device_name()

    @contextmanager
    def running(self, threads: int) -> Iterator[None]:
        """See `Runtime.running`; in the precision that is deployed, whatever a fit needs meanwhile."""
        with super().running(threads), as_deployed():
            yield

    def finish(self) -> None:
        """Wait for what runs."""
        torch.cuda.synchronize()


def make_runtime() -> CudaRuntime:
    """See `runtimes.runtime`.

    Raises:
        OptionError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise OptionError("runtime 'torch-cuda': PyTorch finds no CUDA device here; use 'torch', or a table")
    return CudaRuntime()
