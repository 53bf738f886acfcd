"""Runtimes by name; each is one file and imports its library when it is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module

from ...errors import MissingExtraError, TwofoldError
from ...registry import Registry
from .base import Run, Runtime, Whole, cpu_name

__all__ = [
    "RUNTIMES",
    "Run",
    "Runtime",
    "Whole",
    "cpu_name",
    "default_threads",
    "installed",
    "register",
    "runtime",
]


@dataclass(frozen=True)
class _Entry:
    module: str
    package: str
    extra: str


#: Known runtimes by name.
RUNTIMES: Registry[str, _Entry] = Registry("runtime", normalize=lambda name: name.strip().lower())


def register(name: str, module: str, package: str, extra: str) -> None:
    """Add a runtime.

    Args:
        name: what users call it.
        module: full name of the module that has `make_runtime()`.
        package: the library that it needs.
        extra: what installs it.

    Raises:
        OptionError: the name is taken.
    """
    RUNTIMES.add(_Entry(module, package, extra), name)


def runtime(name: str) -> Runtime:
    """A runtime by name.

    Raises:
        OptionError: there is none of this name, or no device for it.
        MissingExtraError: its library is not installed.
    """
    entry = RUNTIMES.find(name)
    try:
        found: Runtime = import_module(entry.module).make_runtime()
    except ImportError as error:
        raise MissingExtraError(f"timing in {entry.package}", entry.package, entry.extra) from error
    return found


def installed() -> tuple[Runtime, ...]:
    """All runtimes that are installed and have their device."""
    found = []
    for name in RUNTIMES:
        try:
            found.append(runtime(name))
        except TwofoldError:
            continue
    return tuple(found)


def default_threads() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


register("onnxruntime", f"{__name__}.onnxruntime", "ONNX Runtime", "onnx")
register("opencv", f"{__name__}.opencv", "OpenCV", "opencv")
register("torch", f"{__name__}.torch_cpu", "PyTorch", "torch")
register("torch-cuda", f"{__name__}.torch_cuda", "PyTorch", "torch")
register("openvino", f"{__name__}.openvino", "OpenVINO", "openvino")
register("ncnn", f"{__name__}.ncnn", "ncnn", "ncnn")
register("mnn", f"{__name__}.mnn", "MNN", "mnn")
