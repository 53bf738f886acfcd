"""Writing a model in int8: float ONNX, prepared, then quantized by ONNX Runtime.

Weights are quantized per output channel, activations per tensor. The file holds QuantizeLinear and
DequantizeLinear around each layer, which every runtime with int8 layers takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calibration.inputs import Batch, Inputs
from ..errors import InputError, MissingExtraError, ModelError
from ..files.scratch import scratch_folder
from ..progress import quiet, track

if TYPE_CHECKING:
    from onnx import ModelProto

#: The oldest operator set that knows scales per channel.
_OPSET = 13
#: Operators of layers with weights.
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: What ONNX Runtime's quantizer puts behind the name of a value.
SCALE, QUANTIZED = "_scale", "_quantized"
DEQUANTIZED, ROUNDED_OUTPUT = "_DequantizeLinear_Output", "_QuantizeLinear_Input"
#: By value: its scale and zero point.
Ranges = Mapping[str, tuple[float, int]]


def prepare(proto: ModelProto, plain: Path) -> None:
    """Write a model in float32, with constants folded and batch normalisation merged.

    Raises:
        ModelError: ONNX Runtime cannot prepare it.
        MissingExtraError: onnx or ONNX Runtime is not installed.
    """
    try:
        import onnx  # noqa: PLC0415 - an extra
        from onnxruntime.quantization import quant_pre_process  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("quantization", "onnx and ONNX Runtime", "onnx") from error
    found = next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), _OPSET)
    try:
        if found < _OPSET:
            proto = onnx.version_converter.convert_version(proto, _OPSET)
        # Symbolic inference needs sympy, and only models with open shapes inside gain by it.
        onnx.save(proto, plain)
        quant_pre_process(plain, plain, skip_symbolic_shape=True)
    except Exception as error:  # whatever these libraries meet
        raise ModelError(f"ONNX Runtime cannot prepare the model for quantization: {error}") from error


def write_int8(
    plain: Path, int8: Path, inputs: Inputs, ranges: Ranges | None = None, floats: Iterable[str] = ()
) -> None:
    """Quantize what `prepare` wrote.

    Args:
        plain: the model in float32.
        int8: where the other one goes.
        inputs: they show the ranges of activations.
        ranges: of activations whose ranges are known.
        floats: names of nodes that stay in float32.

    Raises:
        ModelError: ONNX Runtime cannot quantize it.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # noqa: PLC0415 - an extra

    known = {
        name: [
            {
                "quant_type": QuantType.QInt8,
                "scale": np.array(scale, np.float32),
                "zero_point": np.array(zero, np.int8),
            }
        ]
        for name, (scale, zero) in (ranges or {}).items()
    }
    try:
        with quiet():  # it logs which constants have no channels
            quantize_static(
                plain, int8, _Reader(track(inputs, "looking at ranges")), quant_format=QuantFormat.QDQ,
                per_channel=True, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
                nodes_to_exclude=list(floats), extra_options={"TensorQuantOverrides": known},
            )  # fmt: skip
    except Exception as error:  # whatever the quantizer meets
        raise ModelError(f"ONNX Runtime cannot quantize the model: {error}") from error


def quantized(proto: ModelProto, sample: Inputs, ranges: Ranges, floats: Iterable[str] = ()) -> ModelProto:
    """A model in int8 whose ranges are all known.

    Args:
        proto: the model in float32.
        sample: inputs that it can be run on; the quantizer wants to see something all the same.
        ranges: of activations.
        floats: names of nodes that stay in float32.

    Raises:
        ModelError: ONNX Runtime cannot quantize it.
    """
    import onnx  # noqa: PLC0415 - an extra

    with scratch_folder() as folder:
        plain, int8 = folder / "plain.onnx", folder / "int8.onnx"
        prepare(proto, plain)
        write_int8(plain, int8, sample, ranges, floats)
        return onnx.load(int8)


class _Reader:
    """Batches as the quantizer asks for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Batch | None:
        """The next batch; None behind the last."""
        return next(self._batches, None)

    def __iter__(self) -> Iterator[Batch]:
        return self._batches


def fitting(inputs: Inputs, plain: Path) -> Inputs:
    """What the model reads of inputs, in batches that it takes.

    Raises:
        InputError: its batch is fixed, and they do not fill it.
    """
    import onnx  # noqa: PLC0415 - an extra

    graph = onnx.load(plain).graph
    inputs = inputs.only(value.name for value in graph.input)  # it may need no labels
    fixed = {
        value.type.tensor_type.shape.dim[0].dim_value
        for value in graph.input
        if value.name in inputs.arrays and value.type.tensor_type.shape.dim
    } - {0}
    if not fixed:
        return inputs
    size = max(fixed)
    if size > 1:
        raise InputError(
            f"the model takes {size} samples at a time; quantize it with a batch of 1 or an open one"
        )
    return inputs.batched(size)


def with_outputs(proto: ModelProto, names: Iterable[str]) -> bytes:
    """A model that gives more of its values."""
    import onnx  # noqa: PLC0415 - an extra

    more = onnx.ModelProto()
    more.CopyFrom(proto)
    known = {value.name for value in proto.graph.output}
    more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    content: bytes = more.SerializeToString()
    return content


def session(content: bytes) -> Any:
    """What runs a model.

    Raises:
        ModelError: ONNX Runtime rejects it.
    """
    import onnxruntime  # noqa: PLC0415 - an extra

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # several run in turn
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever the runtime meets
        raise ModelError(f"ONNX Runtime rejects the quantized model: {error}") from error
