"""Trains the int8 forms of models of every format: fake quantization while the original teaches.

All layers in int8 are trained, those that the original has, too, and the ranges of activations with them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor

from ..calibration.inputs import Batch, Inputs
from ..calibration.measure import OutputError
from ..calibration.runners import runner_for
from ..errors import ModelError, option
from ..formats.base import Model
from ..formats.onnx.model import OnnxModel
from ..int8.agree import refuse_disagreement
from ..int8.fake import FakeInt8
from ..int8.qdq import fitting, prepare, session, with_outputs, write_int8
from ..int8.source import as_onnx
from ..onnx_torch import UnsupportedError
from ..planning.text import error_text
from ..quantize import default_path


def make_teacher(original: Model, protect: tuple[str, ...]) -> Any:
    """What runs the original as ONNX, whose names its int8 form shares."""
    return runner_for(_as_model(original), protect)


def _as_model(model: Model) -> OnnxModel:
    if isinstance(model, OnnxModel):
        return model
    return OnnxModel(Path("model.onnx"), as_onnx(model), edited=True)


class Int8Student:
    """A `Student` that is the int8 form of a model."""

    def __init__(self, decomposed: Model, teacher: Any, inputs: Inputs, device: torch.device) -> None:
        """Quantize a model with the ranges that inputs show."""
        self._path = default_path(decomposed.targets(Path())[0], Path())
        self._runner, self._device = teacher, device
        with tempfile.TemporaryDirectory(prefix="twofold-qat-") as folder:
            plain, int8 = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
            prepare(as_onnx(decomposed), plain)
            self._inputs = fitting(inputs, plain)
            write_int8(plain, int8, self._inputs)
            self._plain, proto = onnx.load(plain), onnx.load(int8)
        try:
            self._fake = FakeInt8(self._plain, proto, teacher.outputs, device)
        except UnsupportedError as error:
            raise ModelError(
                f"the int8 form cannot be trained, since no gradients are known of {error}"
            ) from error

    def parameters(self) -> list[Tensor]:
        """See `Student.parameters`."""
        return self._fake.parameters()

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """See `Student.outputs`."""
        parts = [
            self._fake(
                {name: torch.from_numpy(array.copy()).to(self._device) for name, array in part.items()}
            )
            for part in self._runner.parts(batch)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in self._fake.values}

    def finish(self, exam: Inputs) -> tuple[OnnxModel, tuple[str, ...]]:
        """See `Student.finish`; the int8 model runs in ONNX Runtime beside the fake quantization.

        Raises:
            ModelError: there it gives other outputs than in training.
        """
        trained, ranges = self._fake.trained(self._plain)
        with tempfile.TemporaryDirectory(prefix="twofold-qat-") as folder:
            plain, int8 = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
            onnx.save(trained, plain)
            # All ranges are known; the quantizer wants to see something all the same.
            write_int8(plain, int8, self._inputs.take(slice(0, self._inputs.batch)), ranges)
            model = OnnxModel(self._path, onnx.load(int8), edited=True)
        names = self._fake.values
        found = self._difference(model.proto, names.values(), exam)
        rounding = self._difference(trained, names, exam)
        refuse_disagreement(
            found, rounding, f"recover without {option('qat=True')}, and quantize what comes out"
        )
        return model, (f"int8 in ONNX Runtime and in training differ by {error_text(found)}",)

    def _difference(self, proto: ModelProto, values: Iterable[str], exam: Inputs) -> float:
        """How far a model in ONNX Runtime is from training, as a share of what the outputs vary."""
        names_there = list(values)
        net = session(with_outputs(proto, names_there))
        measure = OutputError()
        for batch in exam:
            with torch.no_grad():
                wanted = {name: value.cpu().numpy() for name, value in self.outputs(batch).items()}
            parts = [net.run(names_there, part) for part in self._runner.parts(batch)]
            found = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
            measure.add("", wanted, dict(zip(wanted, found, strict=True)))
        return measure.error("")
