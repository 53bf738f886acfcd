"""ONNX Runtime on the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from ...errors import ModelError
from ..stacks import Stack, onnx_bytes
from .base import Arrays, Run, Whole, cpu_name


class OnnxRuntime:
    """The CPU provider; graphs are optimised as by default."""

    name = "onnxruntime"
    label = "ONNX Runtime CPU"
    block = 16
    reads = ("onnx",)
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
        """See `Runtime.whole`."""
        return _run(whole.content[0], whole.inputs, threads)


def session_of(content: bytes | Path, threads: int, *, simplified_to: Path | None = None) -> Any:
    """A session of a model.

    Args:
        content: the model or its file.
        threads: to use.
        simplified_to: where the model is written as it is run: without what other libraries do not have.

    Raises:
        ModelError: ONNX Runtime cannot read or run it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Sessions are run in turn here: idle threads of one must not take the cores from the next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if simplified_to is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(simplified_to)
    given = str(content) if isinstance(content, Path) else content
    try:
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base but this
        raise _cannot(error) from error


def typed_feed(session: Any, inputs: Arrays) -> dict[str, Any]:
    """The inputs of a session in the types that it wants."""
    wanted = {value.name: value.type for value in session.get_inputs()}
    return {name: _typed(inputs[name], kind) for name, kind in wanted.items()}


def outputs_of(session: Any, feed: dict[str, Any]) -> dict[str, Any]:
    """Run a session once and give its outputs by name.

    Raises:
        ModelError: it cannot be run.
    """
    names = [value.name for value in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feed), strict=True))
    except Exception as error:  # the same
        raise _cannot(error) from error


def _cannot(error: Exception) -> ModelError:
    return ModelError(f"ONNX Runtime cannot run the model: {error}")


def _run(content: bytes | Path, inputs: Arrays, threads: int) -> Run:
    session = session_of(content, threads)
    feed = typed_feed(session, inputs)
    outputs_of(session, feed)
    return lambda: session.run(None, feed)


def _typed(array: Any, kind: str) -> Any:
    """An array in the type that a session names, as "tensor(float16)"."""
    name = kind.removeprefix("tensor(").removesuffix(")").upper()
    tensor_type = onnx.TensorProto.DataType.Value("FLOAT" if name == "FLOAT" else name)
    return array.astype(onnx.helper.tensor_dtype_to_np_dtype(tensor_type))


def make_runtime() -> OnnxRuntime:
    """See `runtimes.runtime`."""
    return OnnxRuntime()
