"""PyTorch in eager mode, on the CPU.

How fast it is depends on memory: what a network's layers give is asked of the system and given back, and a
process that has done much before has some left and may be twice as fast as one that has not. So networks are
timed in processes of their own, as they are deployed.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import Tensor

from ...errors import ModelError
from ...files.scratch import scratch_folder
from ...formats.torch.layer_types import convolve
from ...terminal import one_line
from ..clock import seconds_of
from ..guest import Answers, Arrays, Forward, Guest, GuestRun
from ..stacks import Stack
from .base import Run, Whole, cpu_name

_LOG = logging.getLogger(__name__)
#: What chooses how memory is asked for and kept.
MEMORY = (
    "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_",
    "MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD", "THP_MEM_ALLOC_ENABLE",
)  # fmt: skip


@dataclass(frozen=True)
class StackCall:
    """A stack with random weights; see `modules.Call`."""

    stack: Stack

    def on(self, device: torch.device) -> Callable[[], Tensor]:
        """What runs it on a device once."""
        x = torch.from_numpy(self.stack.input()).to(device)
        steps = [
            (geometry, [torch.from_numpy(a).to(device) for a in arrays if a is not None])
            for geometry, arrays in zip(self.stack.chain, self.stack.weights(), strict=True)
        ]

        def forward() -> Tensor:
            value = x
            for geometry, parameters in steps:
                value = convolve(geometry, value, *parameters)
            return value

        return forward


class TorchRuntime:
    """A device of PyTorch, in this process."""

    name = "torch"
    label = "PyTorch CPU"
    block = 16
    reads = ("torch",)
    where = torch.device("cpu")

    @property
    def device(self) -> str:
        """See `Runtime.device`."""
        return cpu_name()

    @property
    def version(self) -> str:
        """See `Runtime.version`."""
        return str(torch.__version__)

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
        return self.ready(StackCall(stack))

    def whole(self, whole: Whole, threads: int) -> Run:
        """See `Runtime.whole`."""
        return self.ready(whole.content)

    def ready(self, call: Any) -> Run:
        """A call, run once and ready to be timed.

        Raises:
            ModelError: its forward fails.
        """
        forward = call.on(self.where)

        def run() -> None:
            with torch.inference_mode():
                forward()
            self.finish()

        try:
            run()
        except Exception as error:  # whatever a forward raises
            raise ModelError(f"{self.label} cannot run the model: {error}") from error
        return run


class Engine:
    """See `guest.Engine`; instead of ONNX files it gets pickled calls."""

    def convert(self, onnx: Path) -> None:
        """Nothing to do."""

    def open(
        self, onnx: Path, inputs: Arrays, outputs: tuple[str, ...], threads: int
    ) -> tuple[Forward, Answers]:
        """See `guest.Engine.open`."""
        torch.set_num_threads(threads)
        return TorchRuntime().ready(pickle.loads(onnx.read_bytes())), dict


class NetworkRun:
    """A network in a process of its own, or in this one where it or one beside it cannot be sent.

    Args:
        call: what runs it.
        run: it in a process of its own.
    """

    def __init__(self, call: Any, run: Run) -> None:
        self._call, self._run = call, run

    def __call__(self) -> object:
        """Run it."""
        return self._run()

    def seconds(self, times: int) -> float:
        """See `clock.TimesItself`."""
        return seconds_of(self._run, times)

    def move_here(self, runtime: TorchRuntime) -> None:
        """Run it in this process from now on."""
        self._run = runtime.ready(self._call)


class CpuRuntime(TorchRuntime):
    """The CPU. Stacks share a process, and every network has one of its own.

    What is timed in turn is in processes of its own, or all of it in this one.
    """

    def __init__(self) -> None:
        self._folder, self._guests = Path(), ExitStack()
        self._outermost: tuple[ExitStack, Path] | None = None
        self._stacks: Guest | None = None
        self._count = 0
        self._networks: list[NetworkRun] = []
        self._is_here = False

    @property
    def version(self) -> str:
        """See `Runtime.version`; with what the environment sets of memory, since times differ by it."""
        return " ".join(
            [torch.__version__, *(f"{key}={os.environ[key]}" for key in MEMORY if key in os.environ)]
        )

    @contextmanager
    def running(self, threads: int) -> Iterator[None]:
        """See `Runtime.running`; within another one the process of stacks stays, since its start is slow."""
        before = self._folder, self._guests, self._outermost, self._networks, self._is_here
        with super().running(threads), scratch_folder() as folder, ExitStack() as guests:
            self._folder, self._guests, self._networks, self._is_here = folder, guests, [], False
            self._outermost = self._outermost or (guests, folder)
            stays = False
            try:
                yield
                stays = True
            finally:
                self._folder, self._guests, self._outermost, self._networks, self._is_here = before
                if self._outermost is None or not stays:  # it may have work left that nobody waits for
                    self._stacks = None
                elif self._stacks is not None:
                    self._stacks("forget")

    def stack(self, stack: Stack, threads: int) -> Run:
        """See `Runtime.stack`."""
        if self._is_here:
            return super().stack(stack, threads)
        assert self._outermost is not None, "Bug: nothing is running"
        self._stacks = self._stacks or self._started(*self._outermost)
        return self._sent(self._stacks, StackCall(stack), threads)

    def whole(self, whole: Whole, threads: int) -> Run:
        """See `Runtime.whole`."""
        if self._is_here:
            return super().whole(whole, threads)
        guest = self._started(self._guests, self._folder)
        try:
            run = NetworkRun(whole.content, self._sent(guest, whole.content, threads))
        except Exception as error:  # whatever a user's class raises when it is pickled, there and back
            if guest.has_ended:
                raise
            run = NetworkRun(whole.content, super().whole(whole, threads))
            _LOG.warning(
                "PyTorch is timed in this process and may take longer in a new one, to which the module "
                "cannot be sent (%s)",
                one_line(str(error)),
            )
            self._is_here = True
            for other in self._networks:
                other.move_here(self)
        self._networks.append(run)
        return run

    def _started(self, guests: ExitStack, folder: Path) -> Guest:
        guest = Guest(__name__, self.label, folder)
        guests.callback(guest.close)
        return guest

    def _sent(self, guest: Guest, call: Any, threads: int) -> Run:
        self._count += 1
        path = self._folder / f"call{self._count}.pickle"
        with path.open("wb") as file:
            cloudpickle.dump(call, file)
        number = guest("open", path, {}, (), threads)
        path.unlink()
        return GuestRun(guest, number, path)


def make_runtime() -> CpuRuntime:
    """See `runtimes.runtime`."""
    return CpuRuntime()
