"""ncnn on the CPU; nets reach it by pnnx, single stacks of convolutions are written here."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..guest import Answers, Arrays, Forward

if TYPE_CHECKING:
    from ..stacks import Stack
    from .isolated import IsolatedRuntime

_VERSION = version("ncnn")


class Engine:
    """See `guest.Engine`."""

    def convert(self, onnx: Path) -> None:
        """Write the model's `.param` and `.bin`.

        Raises:
            RuntimeError: pnnx is not installed, or fails.
        """
        package = find_spec("pnnx")  # importing it would load PyTorch
        if package is None or package.origin is None:
            raise RuntimeError("pnnx is not installed; install it: pip install 'twofold[ncnn]'")
        param, weights = _files(onnx)
        command = [str(Path(package.origin).with_name("pnnx")), str(onnx), "fp16=0"]
        ended = subprocess.run(
            [*command, f"ncnnparam={param}", f"ncnnbin={weights}"], cwd=onnx.parent, check=False
        )
        if ended.returncode or not param.is_file():
            raise RuntimeError(f"pnnx failed (exit code {ended.returncode})")

    def open(
        self, onnx: Path, inputs: Arrays, outputs: tuple[str, ...], threads: int
    ) -> tuple[Forward, Answers]:
        """See `guest.Engine.open`; pnnx numbers inputs and outputs in the order that ONNX has them.

        Raises:
            RuntimeError: ncnn cannot read the files, or has no batches.
        """
        import ncnn  # noqa: PLC0415 - only in the process of its own

        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        for read, path in zip((net.load_param, net.load_model), _files(onnx), strict=True):
            if read(str(path)):
                raise RuntimeError(f"it cannot read {path.name}")
        if any(array.shape[0] != 1 for array in inputs.values()):
            raise RuntimeError("it has no batches: one image per run")
        # A clone, since ncnn may compute in place, and memory that is not its own has no count of users.
        mats = {f"in{i}": ncnn.Mat(np.ascontiguousarray(a[0])).clone() for i, a in enumerate(inputs.values())}
        # Outputs that depend on no input are not in the net.
        there = [i for i in range(len(outputs)) if f"out{i}" in net.output_names()]
        last: Arrays = {}

        def forward() -> None:
            extractor = net.create_extractor()
            for name, mat in mats.items():
                extractor.input(name, mat)
            for i in there:
                code, last[outputs[i]] = extractor.extract(f"out{i}")
                if code:
                    raise RuntimeError(f"its net stopped before {outputs[i]!r} (code {code})")

        return forward, lambda: {name: np.array(mat) for name, mat in last.items()}


def _files(onnx: Path) -> tuple[Path, Path]:
    return onnx.with_suffix(".param"), onnx.with_suffix(".bin")


def make_runtime() -> IsolatedRuntime:
    """See `runtimes.runtime`."""
    from ..ncnn_stacks import ncnn_bytes, ncnn_rejection  # noqa: PLC0415 - not in the process of its own
    from .isolated import IsolatedRuntime  # noqa: PLC0415 - the same

    def write(stack: Stack, onnx: Path) -> bool:
        if ncnn_rejection(stack) is not None:
            return False
        for path, content in zip(_files(onnx), ncnn_bytes(stack), strict=True):
            path.write_bytes(content)
        return True

    return IsolatedRuntime("ncnn", "ncnn CPU", 16, _VERSION, simplified=True, write_stack=write)
