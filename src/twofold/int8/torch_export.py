"""PyTorch modules as ONNX, which is what gets quantized."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from onnx import ModelProto

from ..calibration.runners import runner_for
from ..errors import MissingExtraError, ModelError
from ..formats.torch.copies import copied
from ..formats.torch.inputs import Arguments
from ..formats.torch.model import TorchModel
from ..progress import quiet


def exported(model: TorchModel) -> ModelProto:
    """A module as ONNX, of any batch size; inputs and outputs keep their names.

    Raises:
        MissingExtraError: what exports it is not installed.
        ModelError: it cannot be exported.
    """
    try:
        import onnxscript  # noqa: F401, PLC0415 - an extra, of torch's exporter
    except ImportError as error:
        raise MissingExtraError("exporting PyTorch modules", "onnxscript", "qat") from error
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
                input_names=list(runner.inputs), output_names=list(runner.network_outputs),
                dynamic_shapes=kinds, dynamo=True, verbose=False,
            )  # fmt: skip
    except Exception as error:  # whatever the exporter meets
        raise ModelError(f"PyTorch cannot export {type(model.module).__name__} to ONNX: {error}") from error
    assert program is not None, "Bug: no program"
    proto: ModelProto = program.model_proto
    return proto
