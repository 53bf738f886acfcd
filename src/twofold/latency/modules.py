"""The form "torch" of a network: a module with what it is called on, ready for a device of PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..caffe_torch import to_torch
from ..formats.caffe.model import CaffeModel
from ..formats.torch.inputs import moved
from ..formats.torch.model import TorchModel
from .runtimes.base import Arrays, as_float


@dataclass(frozen=True, eq=False)
class Call:
    """A module and what it is called on; it can be sent to another process.

    Attributes:
        module: the module.
        arguments: by position.
        keywords: by name.
    """

    module: nn.Module
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def on(self, device: torch.device) -> Callable[[], object]:
        """What runs a copy of the module on a device once."""
        module: nn.Module = copy.deepcopy(self.module).eval().to(device)
        arguments, keywords = moved(self.arguments, device), moved(dict(self.keywords), device)
        return lambda: module(*arguments, **keywords)


def of_caffe(model: CaffeModel, folder: Path, inputs: Arrays) -> Call:
    """See `backends.Backend.forms`."""
    feed = {name: torch.from_numpy(array) for name, array in as_float(inputs).items()}
    return Call(to_torch(model, "TEST"), (feed,))


def of_module(model: TorchModel, folder: Path, inputs: Arrays) -> Call:
    """The same; the module runs on its example inputs."""
    given = model.example_inputs
    if isinstance(given, Mapping):
        return Call(model.module, keywords=given)
    return Call(model.module, tuple(given) if isinstance(given, (tuple, list)) else (given,))
