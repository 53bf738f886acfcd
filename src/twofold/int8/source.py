"""Models of every format as ONNX in float32, which is what gets quantized."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError, ModelError
from ..export import to_onnx
from ..files.scratch import scratch_folder
from ..formats.base import Model
from ..progress import quiet

if TYPE_CHECKING:
    from onnx import ModelProto


def as_onnx(model: Model) -> ModelProto:
    """A model as ONNX, all data in the message; inputs and outputs keep their names.

    Raises:
        ModelError: it cannot be exported.
        MissingExtraError: what exports it is not installed.
    """
    kind = type(model).__name__
    if kind not in _SOURCES:
        raise ModelError(f"models of type {kind} cannot be exported to ONNX, only {', '.join(_SOURCES)}")
    proto: ModelProto = _SOURCES[kind](model)
    return proto


def _from_caffe(model: Any) -> ModelProto:
    return to_onnx(model).proto


def _from_onnx(model: Any) -> ModelProto:
    import onnx  # noqa: PLC0415 - an extra

    with scratch_folder() as folder:
        model.save(folder / "model.onnx")
        return onnx.load(folder / "model.onnx")


def _from_torch(model: Any) -> ModelProto:
    try:
        import onnxscript  # noqa: F401, PLC0415 - an extra, of torch's exporter
    except ImportError as error:
        raise MissingExtraError("exporting PyTorch modules", "onnxscript", "qat") from error
    import torch  # noqa: PLC0415 - an extra

    from ..calibration.runners import runner_for  # noqa: PLC0415 - needs PyTorch
    from ..formats.torch.copies import copied  # noqa: PLC0415
    from ..formats.torch.inputs import Arguments  # noqa: PLC0415

    runner: Any = runner_for(model)
    call = Arguments.of(model.module, model.example_inputs)
    # Exporters take a batch of one for a constant.
    call = call.with_tensors({name: torch.cat([one, one]) for name, one in call.tensors.items()})
    batch = torch.export.Dim("batch")
    kinds = {name: ({0: batch} if name in runner.inputs else None) for name in (*call.names, *call.named)}
    try:
        # The exporter warns and logs about itself.
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                copied(model.module).eval(), call.positional, kwargs=dict(call.named),
                input_names=list(runner.inputs), output_names=list(runner.ends), dynamic_shapes=kinds,
                dynamo=True, verbose=False,
            )  # fmt: skip
    except Exception as error:  # whatever the exporter meets
        raise ModelError(f"PyTorch cannot export {type(model.module).__name__} to ONNX: {error}") from error
    assert program is not None, "Bug: no program"
    return program.model_proto


_SOURCES: dict[str, Callable[[Any], Any]] = {
    "CaffeModel": _from_caffe,
    "OnnxModel": _from_onnx,
    "TorchModel": _from_torch,
}
