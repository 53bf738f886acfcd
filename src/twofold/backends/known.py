"""The formats that twofold has: one entry each, of names that are imported when they are asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError, OptionError
from ..formats.base import Model
from .base import Backend, Inputs, Objects, Part, register


def _open_caffe(path: Path, weights: Path | None, inputs: Inputs) -> Model:
    from ..formats.caffe.model import CaffeModel  # noqa: PLC0415 - as all that entries name

    return CaffeModel.load(path, weights, inputs)


def _open_onnx(path: Path, weights: Path | None, inputs: Inputs) -> Model:
    if weights is not None:
        raise OptionError(f"{path}: an ONNX model holds its weights; give it alone, without {weights}")
    try:
        from ..formats.onnx.model import OnnxModel  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("onnx", "google"):
            raise
        raise MissingExtraError("reading ONNX models", "onnx", "onnx") from error
    return OnnxModel.load(path, inputs)


def is_module(value: Any) -> bool:
    """Whether a value is a PyTorch module."""
    # Whoever has a module has imported torch.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


register(
    Backend(
        "caffe",
        (),
        _open_caffe,
        label="Caffe",
        runner=Part("twofold.calibration.runners.caffe:make_runner", "PyTorch", "torch"),
        student=Part("twofold.recover.caffe:make_student", "PyTorch", "torch"),
        to_onnx=Part("twofold.export:as_message"),
        inputs=Part("twofold.formats.caffe.backend:declared"),
        forms={
            "caffe": "twofold.latency.nets:saved",
            "onnx": "twofold.latency.nets:exported",
            "torch": "twofold.latency.modules:of_caffe",
        },
    )
)
register(
    Backend(
        "onnx",
        (".onnx",),
        _open_onnx,
        label="ONNX",
        runner=Part("twofold.calibration.runners.onnx:make_runner", "ONNX Runtime", "onnx"),
        student=Part("twofold.recover.onnx:make_student", "PyTorch", "torch"),
        to_onnx=Part("twofold.formats.onnx.backend:as_message"),
        inputs=Part("twofold.formats.onnx.backend:declared"),
        forms={"onnx": "twofold.formats.onnx.backend:written"},
    )
)
register(
    Backend(
        "torch",
        label="PyTorch",
        runner=Part("twofold.calibration.runners.torch:make_runner", "PyTorch", "torch"),
        student=Part("twofold.recover.torch:make_student", "PyTorch", "torch"),
        to_onnx=Part("twofold.int8.torch_export:exported"),
        inputs=Part("twofold.formats.torch.backend:declared"),
        forms={"torch": "twofold.latency.modules:of_module"},
        objects=Objects(
            is_module, "twofold.formats.torch.backend:adopt", "twofold.formats.torch.backend:peek"
        ),
        hints=False,
        sizes="example_inputs",
    )
)
