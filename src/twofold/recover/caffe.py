"""Trains Caffe models."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..caffe_torch.model import to_torch
from ..caffe_torch.runnable import runnable
from ..calibration.inputs import Batch, Inputs
from ..errors import ModelError
from ..formats.caffe.layer_types import adapter_of
from ..formats.caffe.model import CaffeModel


def make_student(
    original: CaffeModel, decomposed: CaffeModel, outputs: tuple[str, ...], device: torch.device
) -> CaffeStudent:
    """The student of a decomposed Caffe model."""
    return CaffeStudent(original, decomposed, outputs, device)


class CaffeStudent:
    """A `Student` that is a Caffe net in its test phase; layers that the original has stay as they are."""

    def __init__(
        self, original: CaffeModel, decomposed: CaffeModel, outputs: tuple[str, ...], device: torch.device
    ) -> None:
        self._decomposed = decomposed
        self._outputs, self._device = outputs, device
        net = runnable(to_torch(decomposed, "TEST").eval().requires_grad_(False)).net
        self.net = net.placed(device)
        # The last layer of a stack may have the name of the layer that it replaced.
        known = {(spec.name, spec.bottoms) for spec in original.net("TEST").layers}
        computed = {top for spec in self.net.definition.layers for top in spec.tops}
        missing = [name for name in outputs if name not in computed]
        if missing:
            raise ModelError(
                f"the second model has no blob {missing[0]!r}, an output of the first; "
                "they do not belong together"
            )
        self._trained = [
            layer
            for spec, layer in zip(self.net.definition.layers, self.net.layers, strict=True)
            if (spec.name, spec.bottoms) not in known and adapter_of(spec.type) is not None
        ]
        for layer in self._trained:
            layer.requires_grad_(True)

    def parameters(self) -> list[Tensor]:
        """See `Student.parameters`."""
        return [parameter for layer in self._trained for parameter in layer.parameters()]

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """See `Student.outputs`."""
        feed = {
            name: torch.from_numpy(np.array(value, np.float32)).to(self._device)
            for name, value in batch.items()
        }
        return self.net.execute(feed, keep=self._outputs)

    def finish(self, validation: Inputs) -> tuple[CaffeModel, tuple[str, ...]]:
        """See `Student.finish`."""
        names = {layer.spec.name for layer in self._trained}  # type: ignore[union-attr]
        arrays = {name: blobs for name, blobs in self.net.arrays().items() if name in names}
        return self._decomposed.with_blobs(arrays), ()
