"""Trains models of formats that can be exported: as ONNX, and what was trained goes back into the model."""

from __future__ import annotations

from typing import Any

import torch

from ..backends.exported import exported
from ..calibration.inputs import Inputs
from ..conv import ConvLayer
from .onnx import OnnxStudent


class ExportedStudent(OnnxStudent):
    """A `Student` for any model with `with_weights`; see `backends.exported.through_onnx`."""

    def __init__(
        self, original: Any, decomposed: Any, outputs: tuple[str, ...], device: torch.device
    ) -> None:
        super().__init__(exported(original), exported(decomposed), outputs, device)
        self._model = decomposed

    def finish(self, validation: Inputs) -> tuple[Any, tuple[str, ...]]:
        """See `Student.finish`."""
        trained, notes = super().finish(validation)
        layers = [layer for layer in trained.convolutions() if isinstance(layer, ConvLayer)]
        return self._model.with_weights({one.name: (one.weight, one.bias) for one in layers}), notes


def make_student(original: Any, decomposed: Any, outputs: tuple[str, ...], device: torch.device) -> Any:
    """The student of a decomposed model."""
    return ExportedStudent(original, decomposed, outputs, device)
