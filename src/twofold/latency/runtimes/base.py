"""What timing needs of a runtime, so that each is one file."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # processes that only run models start sooner without
    from ..stacks import Stack

#: Runs a model once, to its end.
Run = Callable[[], object]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Whole:
    """A whole network to be timed.

    Attributes:
        form: in which it is given, one of those that the runtime reads.
        content: of "caffe" and "onnx" its files, the definition first; of "torch" a `modules.Call`.
        inputs: values of its inputs.
    """

    form: str
    content: Any
    inputs: Arrays


class Runtime(Protocol):
    """Runs models on one kind of device."""

    @property
    def name(self) -> str:
        """Key in the registry."""

    @property
    def label(self) -> str:
        """What people call it."""

    @property
    def block(self) -> int:
        """Channels that it computes together; times change in steps of so many."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Forms in which it takes whole networks, the best first: "caffe", "onnx", "torch"."""

    @property
    def version(self) -> str:
        """Version of the library."""

    @property
    def device(self) -> str:
        """Name of the CPU or GPU."""

    def running(self, threads: int) -> AbstractContextManager[None]:
        """Within the context models are opened and run with so many threads.

        Contexts may lie in each other; models are opened in the innermost.
        """

    def stack(self, stack: Stack, threads: int) -> Run:
        """A stack with random weights, ready to run.

        Raises:
            ModelError: the runtime has no such convolution.
        """

    def whole(self, whole: Whole, threads: int) -> Run:
        """A network, ready to run.

        Raises:
            ModelError: the runtime cannot run it.
        """


def cpu_name() -> str:
    """Name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def as_float(inputs: Arrays) -> dict[str, NDArray[np.float32]]:
    """Inputs in single precision."""
    return {name: np.asarray(array, np.float32) for name, array in inputs.items()}
