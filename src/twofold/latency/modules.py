"""The form "torch" of a network: its forward on a device of PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..caffe_torch import to_torch
from ..formats.caffe.model import CaffeModel
from ..formats.torch.model import TorchModel
from .runtimes.base import Arrays, as_float

#: Of a device: what runs the network there once.
OnDevice = Callable[[torch.device], Callable[[], object]]


def of_caffe(model: CaffeModel, folder: Path, inputs: Arrays) -> OnDevice:
    """See `backends.Backend.forms`."""

    def on(device: torch.device) -> Callable[[], object]:
        net = to_torch(model, "TEST").eval().to(device)
        feed = {name: torch.from_numpy(array).to(device) for name, array in as_float(inputs).items()}
        return lambda: net(feed)

    return on


def of_module(model: TorchModel, folder: Path, inputs: Arrays) -> OnDevice:
    """The same; the module runs on its example inputs."""

    def on(device: torch.device) -> Callable[[], object]:
        module: nn.Module = copy.deepcopy(model.module).eval().to(device)
        given = moved(model.example_inputs, device)
        if isinstance(given, Mapping):
            return lambda: module(**given)
        arguments = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        return lambda: module(*arguments)

    return on


def moved(value: Any, device: torch.device) -> Any:
    """Example inputs on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved(one, device) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(moved(one, device) for one in value)
    return value
