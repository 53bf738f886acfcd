"""MNN on the CPU; its wheel converts ONNX.

The wheel's own command, `mnnconvert`, is not called: besides converting it installs a package and reports
what was converted to a server. What it converts with is called itself, and does neither.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..guest import Answers, Arrays, Forward

if TYPE_CHECKING:
    from .isolated import IsolatedRuntime

_VERSION = version("MNN")


class Engine:
    """See `guest.Engine`."""

    def convert(self, onnx: Path) -> None:
        """Write the model's `.mnn`.

        Raises:
            RuntimeError: there is none.
        """
        import _tools  # noqa: PLC0415 - only in the process of its own

        target = onnx.with_suffix(".mnn")
        wanted = {"-f": "ONNX", "--modelFile": onnx, "--MNNModel": target, "--bizCode": "twofold"}
        _tools.mnnconvert(["mnnconvert", *(str(word) for pair in wanted.items() for word in pair)])
        if not target.is_file():
            raise RuntimeError("no model was written")

    def open(
        self, onnx: Path, inputs: Arrays, outputs: tuple[str, ...], threads: int
    ) -> tuple[Forward, Answers]:
        """See `guest.Engine.open`; "high" is single precision."""
        import MNN  # noqa: PLC0415 - only in the process of its own

        net = MNN.Interpreter(str(onnx.with_suffix(".mnn")))
        session = net.createSession({"backend": "CPU", "precision": "high", "numThread": threads})
        kinds = {np.dtype(np.float32): MNN.Halide_Type_Float, np.dtype(np.int32): MNN.Halide_Type_Int}

        def host(array: NDArray[Any]) -> Any:
            if array.dtype not in kinds:
                raise TypeError(f"values of type {array.dtype} are not given to MNN here")
            return MNN.Tensor(
                array.shape, kinds[array.dtype], np.ascontiguousarray(array), MNN.Tensor_DimensionType_Caffe
            )

        for name, array in inputs.items():
            net.getSessionInput(session, name).copyFrom(host(array))

        def answers() -> Arrays:
            values = {}
            for name in outputs:
                tensor = net.getSessionOutput(session, name)
                copy = host(np.empty(tensor.getShape(), np.float32))
                tensor.copyToHostTensor(copy)
                values[name] = np.array(copy.getNumpyData(), copy=True)
            return values

        return lambda: net.runSession(session), answers


def make_runtime() -> IsolatedRuntime:
    """See `runtimes.runtime`."""
    from .isolated import IsolatedRuntime  # noqa: PLC0415 - the process of its own needs none of it

    return IsolatedRuntime("mnn", "MNN CPU", 4, _VERSION, simplified=True)
