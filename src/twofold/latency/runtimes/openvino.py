"""OpenVINO on the CPU; it reads ONNX."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ..guest import Answers, Arrays, Forward

if TYPE_CHECKING:
    from .isolated import IsolatedRuntime

_VERSION = version("openvino")


class Engine:
    """See `guest.Engine`."""

    def convert(self, onnx: Path) -> None:
        """Nothing to do."""

    def open(
        self, onnx: Path, inputs: Arrays, outputs: tuple[str, ...], threads: int
    ) -> tuple[Forward, Answers]:
        """See `guest.Engine.open`.

        Single precision is asked for: where the processor has bfloat16, OpenVINO's own default is that.
        """
        import openvino  # noqa: PLC0415 - only in the process of its own

        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = openvino.Core().compile_model(str(onnx), "CPU", options)
        request = compiled.create_infer_request()
        for name, array in inputs.items():
            request.set_tensor(name, openvino.Tensor(array))

        def answers() -> Arrays:
            return {name: request.get_tensor(name).data.copy() for name in outputs}

        def forward() -> None:  # `infer` would copy the outputs for Python
            request.start_async()
            request.wait()

        return forward, answers


def make_runtime() -> IsolatedRuntime:
    """See `runtimes.runtime`."""
    from .isolated import IsolatedRuntime  # noqa: PLC0415 - the process of its own needs none of it

    return IsolatedRuntime("openvino", "OpenVINO CPU", 16, _VERSION, simplified=False)
