"""What the entry of PyTorch in `backends` names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from ...conv import Size
from ...errors import InputError
from .inputs import Arguments, as_tensors
from .model import TorchModel
from .peek import peeked


def adopt(value: nn.Module | TorchModel, example_inputs: Any = None) -> TorchModel:
    """A module as a model, or a model with other example inputs; arrays become tensors."""
    if not isinstance(value, TorchModel):
        return TorchModel(value, as_tensors(value, example_inputs))
    if example_inputs is None or value.example_inputs is example_inputs:
        return value
    return replace(value, example_inputs=as_tensors(value.module, example_inputs))


def peek(model: TorchModel, data: Any) -> tuple[Any, Any]:
    """The first sample of some data as example inputs, and data that still hold it; see `peek.peeked`."""
    return peeked(model.module, data)


def declared(model: TorchModel) -> dict[str, tuple[Size, np.dtype[Any]]]:
    """Shapes of the tensors among the example inputs, by name.

    Raises:
        InputError: there are none.
    """
    tensors: Mapping[str, Any] = {}
    if model.example_inputs is not None:
        tensors = Arguments.of(model.module, model.example_inputs).tensors
    if not tensors:
        raise InputError("the model has no example inputs, so it cannot be timed; give example_inputs")
    return {name: (tuple(one.shape), np.dtype(np.float32)) for name, one in tensors.items()}
