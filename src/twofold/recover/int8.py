"""Trains the int8 forms of models of every format: fake quantization while the original teaches.

All layers in int8 are trained, those that the original has, too, and the ranges of activations with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor

from ..backends.exported import as_onnx, exported
from ..calibration.inputs import Batch, Inputs
from ..calibration.measure import OutputErrorMetric
from ..calibration.runners import reject_varying, runner_for
from ..errors import ModelError, option
from ..files.scratch import scratch_folder
from ..formats.base import Model
from ..formats.onnx.model import OnnxModel
from ..int8.fake import FakeInt8
from ..int8.parity import OTHERWISE, Agreement
from ..int8.qdq import fitting, prepare, session, with_outputs, write_int8
from ..int8.quantize import default_path
from ..onnx_torch import UnsupportedError
from ..text import error_text


def make_teacher(original: Model, targets: tuple[str, ...]) -> Any:
    """What runs the original as ONNX, whose names its int8 form shares."""
    runner = runner_for(exported(original), targets)
    reject_varying(runner)
    return runner


def _instead() -> str:
    """What can be done where training is not what ONNX Runtime computes."""
    return f"recover without {option('qat=True', '--qat')}, and quantize what comes out"


class Int8Student:
    """A `Student` that is the int8 form of a model."""

    def __init__(self, decomposed: Model, teacher: Any, inputs: Inputs, device: torch.device) -> None:
        """Quantize a model with the ranges that inputs show.

        Raises:
            ModelError: it cannot be quantized or trained, or ONNX Runtime computes it otherwise.
        """
        self._path = default_path(decomposed.targets(Path())[0], Path())
        self._runner, self._device = teacher, device
        with scratch_folder() as folder:
            plain, int8 = folder / "plain.onnx", folder / "int8.onnx"
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
        self._agreement(self._written(), self._inputs).reject(_instead())

    def parameters(self) -> list[Tensor]:
        """See `Student.parameters`."""
        return self._fake.parameters()

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """See `Student.outputs`."""
        parts = [self._fake(self._tensors(part)) for part in self._runner.parts(batch)]
        return {name: torch.cat([part[name] for part in parts]) for name in self._fake.values}

    def finish(self, validation: Inputs) -> tuple[OnnxModel, tuple[str, ...]]:
        """See `Student.finish`; the int8 model runs in ONNX Runtime beside the original."""
        proto = self._written()
        names = self._fake.values
        net, measure = session(with_outputs(proto, names.values())), OutputErrorMetric()
        for batch in validation:
            parts = [net.run(list(names.values()), part) for part in self._runner.parts(batch)]
            found = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
            measure.add("", self._runner.run(batch), dict(zip(names, found, strict=True)))
        agreement = self._agreement(proto, validation)
        notes = [f"in ONNX Runtime the error of the int8 model is {error_text(measure.error(''))}"]
        # What was trained is not thrown away: the error above is of what the user gets.
        if (problem := agreement.problem()) is not None:
            notes.append(f"{OTHERWISE}: {problem}; {_instead()}")
        return OnnxModel(self._path, proto, edited=True), tuple(notes)

    def _tensors(self, part: Batch) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array.copy()).to(self._device) for name, array in part.items()}

    def _written(self) -> ModelProto:
        """The int8 model as it is now."""
        trained, ranges = self._fake.trained(self._plain)
        with scratch_folder() as folder:
            plain, int8 = folder / "plain.onnx", folder / "int8.onnx"
            onnx.save(trained, plain)
            # All ranges are known; the quantizer wants to see something all the same.
            write_int8(plain, int8, self._inputs.take(slice(0, self._inputs.batch)), ranges)
            return onnx.load(int8)

    def _agreement(self, proto: ModelProto, inputs: Inputs) -> Agreement:
        """Run an int8 model in ONNX Runtime beside training, on the first batch."""
        agreement = Agreement(proto, self._fake.values.values())
        for part in self._runner.parts(next(iter(inputs))):
            runtime = agreement.run(part)
            with torch.no_grad(), self._fake.following(agreement):
                found = self._fake(self._tensors(part))
            training = {self._fake.values[name]: value.cpu().numpy() for name, value in found.items()}
            agreement.compare(training, runtime)
        return agreement
