"""PyTorch in eager mode, on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ...formats.torch.layer_types import convolve
from ..stacks import Stack
from .base import Run, Whole, as_float, cpu_name


class TorchRuntime:
    """A device of PyTorch."""

    name = "torch"
    label = "PyTorch CPU"
    block = 16
    kinds = ("CaffeModel", "TorchModel")
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
        if type(whole.model).__name__ == "CaffeModel":
            net = whole.model.to_torch("TEST").eval().to(self.where)
            feed = {name: torch.from_numpy(a).to(self.where) for name, a in as_float(whole.inputs).items()}
            return self._timed(lambda: net(feed))
        module: nn.Module = copy.deepcopy(whole.model.module).eval().to(self.where)
        given = _moved(whole.model.example_inputs, self.where)
        if isinstance(given, dict):
            return self._timed(lambda: module(**given))
        arguments = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        return self._timed(lambda: module(*arguments))

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


def _moved(value: Any, where: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(where)
    if isinstance(value, dict):
        return {key: _moved(one, where) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(one, where) for one in value)
    return value


def make_runtime() -> TorchRuntime:
    """See `runtimes.runtime`."""
    return TorchRuntime()
