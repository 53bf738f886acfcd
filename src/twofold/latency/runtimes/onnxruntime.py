"""ONNX Runtime on the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import onnx
import onnxruntime

from ...errors import ModelError
from ...export import to_onnx
from ..stacks import Stack, onnx_bytes
from .base import Arrays, Run, Whole, cpu_name


class OnnxRuntime:
    """The CPU provider; graphs are optimised as by default."""

    name = "onnxruntime"
    label = "ONNX Runtime CPU"
    block = 16
    kinds = ("CaffeModel", "OnnxModel")
    version: str = onnxruntime.__version__

    @property
    def device(self) -> str:
        """See `Runtime.device`."""
        return cpu_name()

    def running(self, threads: int) -> AbstractContextManager[None]:
        """Nothing to do: threads belong to a session."""
        return nullcontext()

    def stack(self, stack: Stack, threads: int) -> Run:
        """See `Runtime.stack`."""
        return _run(onnx_bytes(stack), {"x": stack.input()}, threads)

    def whole(self, whole: Whole, threads: int) -> Run:
        """See `Runtime.whole`; a Caffe net is exported first."""
        if type(whole.model).__name__ == "CaffeModel":
            content: Any = to_onnx(whole.model).proto.SerializeToString()
        else:
            content = str(whole.files[0])
        return _run(content, whole.inputs, threads)


def _run(content: bytes | str, inputs: Arrays, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Sessions are run in turn here: idle threads of one must not take the cores from the next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        wanted = {value.name: value.type for value in session.get_inputs()}
        feed = {name: _typed(inputs[name], kind) for name, kind in wanted.items()}
        session.run(None, feed)
    except Exception as error:  # its errors have no common base but this
        raise ModelError(f"ONNX Runtime cannot run the model: {error}") from error
    return lambda: session.run(None, feed)


def _typed(array: Any, kind: str) -> Any:
    """An array in the type that a session names, as "tensor(float16)"."""
    name = kind.removeprefix("tensor(").removesuffix(")").upper()
    tensor_type = onnx.TensorProto.DataType.Value("FLOAT" if name == "FLOAT" else name)
    return array.astype(onnx.helper.tensor_dtype_to_np_dtype(tensor_type))


def make_runtime() -> OnnxRuntime:
    """See `runtimes.runtime`."""
    return OnnxRuntime()
