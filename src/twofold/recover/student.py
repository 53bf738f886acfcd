"""A model that is trained: what each format gives one of."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ..calibration.inputs import Batch, Inputs


class Student(Protocol):
    """A model that is trained in torch."""

    def parameters(self) -> list[Tensor]:
        """What is trained: the convolutions that the original does not have."""

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """The protected outputs, with gradients."""

    def finish(self, validation: Inputs) -> tuple[Any, tuple[str, ...]]:
        """The trained model, and notes; it may be run once more, on inputs that were not trained on."""
