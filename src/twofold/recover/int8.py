"""Trains the int8 forms of models of every format: fake quantization while the original teaches.

All layers in int8 are trained, those that the original has, too, and the ranges of the activations with them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from torch import Tensor

from ..calibration.inputs import Batch, Inputs
from ..calibration.measure import OutputError
from ..calibration.runners import runner_for
from ..calibration.runners.onnx.runner import OnnxRunner
from ..errors import InputError, ModelError, OptionError, OutputError as RefusedError
from ..formats.base import Model
from ..formats.onnx.model import OnnxModel
from ..int8.fake import FakeInt8
from ..int8.qdq import fitting, prepare, write_int8
from ..int8.source import as_onnx
from ..onnx_torch import UnsupportedError

#: Largest difference between ONNX Runtime and fake quantization, as a share of what each output varies. Values
#: near the edge between two steps fall to either side, and the layers behind see that.
TOLERANCE = 0.05


def float_model(model: Model) -> OnnxModel:
    """A model as ONNX, in memory."""
    if isinstance(model, OnnxModel):
        return model
    return OnnxModel(Path(f"{type(model).__name__}.onnx"), as_onnx(model), edited=True)
