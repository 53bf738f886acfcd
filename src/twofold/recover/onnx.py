"""Trains ONNX models: the graph runs in torch, and what was trained goes back into the file's tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from onnx import TensorProto
from torch import Tensor

from ..calibration.inputs import Batch, Inputs
from ..calibration.runners.onnx.runner import OnnxRunner
from ..errors import ModelError, OptionError, option
from ..formats.onnx.graphs import Constant
from ..formats.onnx.model import OnnxModel
from ..onnx_torch import OnnxNet, UnsupportedError


def make_student(
    original: OnnxModel, decomposed: OnnxModel, outputs: tuple[str, ...], device: torch.device
) -> OnnxStudent:
    """The student of a decomposed ONNX model."""
    return OnnxStudent(original, decomposed, outputs, device)


class OnnxStudent:
    """A `Student` that is an ONNX graph in torch; nodes that the original has stay as they are."""

    def __init__(
        self, original: OnnxModel, decomposed: OnnxModel, outputs: tuple[str, ...], device: torch.device
    ) -> None:
        self._decomposed, self._device = decomposed, device
        try:
            self._runner = OnnxRunner(decomposed, outputs)
            self._net = OnnxNet(decomposed.proto, outputs, decomposed.files)
        except OptionError as error:
            raise ModelError(f"{decomposed.path}: is not made of {original.path}: {error}") from error
        except UnsupportedError as error:
            raise ModelError(
                f"{decomposed.path}: cannot be trained, since no gradients are known of {error}; train the "
                f"module that the model was exported from, or protect outputs before it ({option('targets')})"
            ) from error
        # The last of a stack may have the name of what it replaced.
        known = {layer.name: layer.geometry for layer in original.convolutions()}
        new = [
            layer.name
            for layer in decomposed.convolutions()
            if layer.name not in known or layer.geometry != known[layer.name]
        ]
        self._trained = {
            constant.name: constant
            for constant in _constants(decomposed, new)
            if constant.scope.number == 0 and constant.name in self._net.constants
        }
        for name, constant in self._trained.items():
            dtype = constant.tensor.data_type
            if dtype not in (TensorProto.FLOAT, TensorProto.DOUBLE):
                raise ModelError(
                    f"{decomposed.path}: {name!r} is {TensorProto.DataType.Name(dtype)}, too coarse to be "
                    "trained; recover the float32 model and convert what comes out"
                )
        self._net.constants |= {name: one.to(device) for name, one in self._net.constants.items()}
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    def parameters(self) -> list[Tensor]:
        """See `Student.parameters`."""
        return [self._net.constants[name] for name in self._trained]

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """See `Student.outputs`."""
        try:
            parts = [
                self._net(
                    {name: torch.from_numpy(array.copy()).to(self._device) for name, array in part.items()}
                )
                for part in self._runner.parts(batch)
            ]
        except RuntimeError as error:
            raise ModelError(
                f"{self._decomposed.path}: does not run in torch, which trains it: {error}"
            ) from error
        count = len(next(iter(batch.values())))
        return {
            name: self._runner.batching.own(torch.cat([part[name] for part in parts]), count)
            for name in self._net.outputs
        }

    def finish(self, validation: Inputs) -> tuple[OnnxModel, tuple[str, ...]]:
        """See `Student.finish`."""
        values = {
            constant.key: self._net.constants[name].detach().cpu().numpy()
            for name, constant in self._trained.items()
        }
        return self._decomposed.with_constants(values), ()


def _constants(model: OnnxModel, layers: list[str]) -> Iterator[Constant]:
    """Weights and biases of convolutions that can be read."""
    for name in layers:
        for use in model.group(name).uses:
            if not use.reason:
                # What is computed of other constants stays as it is.
                yield from (one for one in (use.weight, use.bias) if one is not None and not one.steps)
