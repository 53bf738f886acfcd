"""What is installed and what works here: versions, extras, runtimes, memory and the linear algebra."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from .calibration.memory import free_memory
from .conv import ConvGeometry
from .errors import MissingExtraError, TwofoldError
from .files.cache import cache_folder
from .latency import table as tables
from .latency.runtimes import RUNTIMES, cpu_name, default_threads, runtime
from .latency.stacks import Stack
from .text import aligned

#: Packages that are always there.
CORE = ("twofold", "numpy", "scipy", "threadpoolctl", "typer", "rich", "platformdirs")
#: Extra -> its modules with the packages they are in, and what it brings.
EXTRAS: dict[str, tuple[dict[str, str], str]] = {
    "torch": (
        {
            "torch": "torch",
            "pytorch_optimizer": "pytorch-optimizer",
            "PIL": "pillow",
            "cloudpickle": "cloudpickle",
        },
        "calibration of Caffe nets, PyTorch modules, recover, images",
    ),
    "hdf5": ({"h5py": "h5py"}, "Caffe's HDF5 weights and data layers"),
    "onnx": (
        {"onnx": "onnx", "onnxruntime": "onnxruntime"},
        "ONNX models, export, quantize, times in ONNX Runtime",
    ),
    "opencv": ({"cv2": "opencv-python-headless"}, "times in OpenCV"),
    "caffe-train": (
        {
            "torch": "torch",
            "pytorch_optimizer": "pytorch-optimizer",
            "PIL": "pillow",
            "cloudpickle": "cloudpickle",
            "h5py": "h5py",
        },
        "finetune from LMDB and HDF5 data layers",
    ),
    "qat": (
        {
            "torch": "torch",
            "pytorch_optimizer": "pytorch-optimizer",
            "PIL": "pillow",
            "cloudpickle": "cloudpickle",
            "onnx": "onnx",
            "onnxruntime": "onnxruntime",
            "torchao": "torchao",
            "onnxscript": "onnxscript",
        },
        "recover --qat",
    ),
    "openvino": (
        {"torch": "torch", "onnx": "onnx", "onnxruntime": "onnxruntime", "openvino": "openvino"},
        "times in OpenVINO",
    ),
    "ncnn": (
        {"torch": "torch", "onnx": "onnx", "onnxruntime": "onnxruntime", "ncnn": "ncnn", "pnnx": "pnnx"},
        "times in ncnn",
    ),
    "mnn": (
        {"torch": "torch", "onnx": "onnx", "onnxruntime": "onnxruntime", "MNN": "mnn"},
        "times in MNN",
    ),
    "plot": ({"matplotlib": "matplotlib"}, "plots of a result in notebooks"),
}
#: Libraries of linear algebra that use the processor's vector units; others are slow.
FAST = frozenset({"openblas", "mkl", "blis", "accelerate", "flexiblas", "armpl"})
_SIDE = 1024


@dataclass(frozen=True)
class Extra:
    """An optional part.

    Attributes:
        name: of the extra.
        brings: what it is for.
        packages: package -> its version; None where it is missing.
        remedy: what installs it; "" where nothing is missing.
    """

    name: str
    brings: str
    packages: dict[str, str | None]
    remedy: str


@dataclass(frozen=True)
class RuntimeState:
    """A runtime in which layers and nets can be timed.

    Attributes:
        name: by which commands know it.
        version: of its library; None where it cannot be used.
        device: what it runs on; None where it cannot be used.
        problem: why it cannot be used; "" where a convolution was run in it.
    """

    name: str
    version: str | None
    device: str | None
    problem: str


@dataclass(frozen=True)
class Algebra:
    """The linear algebra that numpy uses.

    Attributes:
        libraries: their names.
        gflops: measured rate of a product of two float32 matrices, 1e9 operations per second.
        slow: whether none of the libraries is known to be fast.
    """

    libraries: tuple[str, ...]
    gflops: float
    slow: bool


@dataclass(frozen=True)
class Diagnosis:
    """What `twofold doctor` shows.

    Attributes:
        python: its version.
        system: operating system and machine.
        cpu: name of the processor.
        cores: that this process may use.
        memory_free: bytes that this process may still take.
        latency_tables: folder of the times that were measured.
        cache: folder of the results that `decompose` goes on from; None where it is switched off.
        packages: those that are always needed, with their versions.
        extras: those that may be missing.
        runtimes: in which nets can be timed.
        algebra: what numpy computes with.
    """

    python: str
    system: str
    cpu: str
    cores: int
    memory_free: int
    latency_tables: str
    cache: str | None
    packages: dict[str, str | None]
    extras: tuple[Extra, ...]
    runtimes: tuple[RuntimeState, ...]
    algebra: Algebra

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        algebra = f"{', '.join(self.algebra.libraries) or 'unknown'}, {self.algebra.gflops:.0f} GFLOP/s"
        if self.algebra.slow:
            algebra += "; slow: install numpy from PyPI or conda, which bring OpenBLAS or MKL"
        about = [
            ("python", f"{self.python}, {self.system}"),
            ("processor", f"{self.cpu}, {self.cores} core(s) usable"),
            ("memory", f"{self.memory_free / 2**30:.1f} GiB free"),
            ("algebra", algebra),
            ("packages", _versions(self.packages)),
            ("times", f"kept in {self.latency_tables}"),
            ("cache", "switched off" if self.cache is None else f"results are kept in {self.cache}"),
        ]
        extras = [
            (one.name, _versions(one.packages), one.brings if not one.remedy else _missing(one))
            for one in self.extras
        ]
        runtimes = [
            (one.name, *((one.problem,) if one.problem else (f"{one.version}, {one.device}", "works")))
            for one in self.runtimes
        ]
        return "\n".join(
            [
                *aligned(about, ()),
                *("", "extras"), *_indented(aligned(extras, ())),
                *("", "runtimes"), *_indented(aligned(runtimes, ())),
            ]
        )  # fmt: skip


def _versions(packages: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {found or 'missing'}" for name, found in packages.items())


def _missing(extra: Extra) -> str:
    return f"would bring {extra.brings}: {extra.remedy}"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def diagnose() -> Diagnosis:
    """Look at this installation; runs a small convolution in every runtime."""
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu_name(),
        cores=default_threads(),
        memory_free=free_memory(),
        latency_tables=str(tables.cache_folder()),
        cache=None if (folder := cache_folder()) is None else str(folder),
        packages={name: _version(name) for name in CORE},
        extras=tuple(_extra(name) for name in EXTRAS),
        runtimes=tuple(_runtime(name) for name in RUNTIMES),
        algebra=_algebra(),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _extra(name: str) -> Extra:
    modules, brings = EXTRAS[name]
    found = {
        # A module may come from another package of the same library, whose version is not looked for.
        package: (_version(package) or "installed") if _importable(module) else None
        for module, package in modules.items()
    }
    remedy = "" if all(found.values()) else f"pip install 'twofold[{name}]'"
    return Extra(name, brings, found, remedy)


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # something put None in its place
        return False


def _runtime(name: str) -> RuntimeState:
    stack = Stack((ConvGeometry.of(16, 16, (3, 3), pad=1),), (16, 16))
    try:
        found = runtime(name)
        with found.running(1):
            found.stack(stack, 1)()
    except MissingExtraError as error:
        return RuntimeState(name, None, None, str(error))
    except TwofoldError as error:
        return RuntimeState(name, None, None, str(error).removeprefix(f"runtime '{name}': "))
    except Exception as error:  # a library that is broken must not hide the rest
        return RuntimeState(
            name, None, None, f"broken: {' '.join(str(error).split()) or type(error).__name__}"
        )
    return RuntimeState(name, found.version, found.device, "")


def _algebra() -> Algebra:
    names = {str(pool["internal_api"]) for pool in threadpool_info() if pool.get("user_api") == "blas"}
    built = getattr(np.__config__, "CONFIG", {}).get("Build Dependencies", {}).get("blas", {}).get("name", "")
    libraries = tuple(sorted(names)) or ((built,) if built else ())
    fast = any(known in name.lower() for name in libraries for known in FAST)
    a = np.random.default_rng(0).standard_normal((_SIDE, _SIDE), np.float32)
    a @ a  # threads start
    start = time.perf_counter()
    a @ a
    return Algebra(libraries, 2e-9 * _SIDE**3 / (time.perf_counter() - start), not fast)
