"""Copies of modules, which may be changed and run."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...errors import ModelError
from .convolution import removal
from .inputs import Arguments
from .running import same_randomness


def copied(module: nn.Module) -> nn.Module:
    """A copy of a module that may be changed.

    Raises:
        ModelError: it holds something that cannot be copied.
    """
    try:
        with torch.no_grad():  # else the parameters of a scripted module's copy are computed from its own
            made = copy.deepcopy(module)
    except Exception as error:  # whatever an attribute's own copying raises
        raise ModelError(f"{type(module).__name__} cannot be copied ({error}); {_remedy(module)}") from error
    trained = {name: one.requires_grad for name, one in module.named_parameters(remove_duplicate=False)}
    for name, parameter in made.named_parameters(remove_duplicate=False):
        if trained.get(name) and not parameter.requires_grad:
            parameter.requires_grad_(True)
    return made


def evaluated(module: nn.Module) -> nn.Module:
    """The module, in evaluation.

    Raises:
        ModelError: a train() of its own fails.
    """
    try:
        return module.eval()
    except Exception as error:  # whatever a train() of its own raises
        raise ModelError(
            f"{type(module).__name__} cannot be put into evaluation: eval() fails: {error}"
        ) from error


def lazy_layers(module: nn.Module) -> list[str]:
    """Names of modules whose parameters the first input is to make."""
    return [
        name
        for name, one in module.named_modules()
        if any(map(is_lazy, (*one.parameters(recurse=False), *one.buffers(recurse=False))))
    ]


def initialised(module: nn.Module, example_inputs: Any) -> nn.Module:
    """A copy whose lazy layers the example inputs have initialised.

    Raises:
        InputError: it does not run.
    """
    copy = copied(module)
    training = [(one, one.training) for one in copy.modules()]
    with torch.no_grad(), same_randomness():
        Arguments.of(copy, example_inputs).call(evaluated(copy))
    for one, mode in training:
        one.training = mode
    return copy


def _remedy(module: nn.Module) -> str:
    for name, one in module.named_modules():
        remedy = removal(one)
        if remedy is not None:
            return f"{name or 'the module'} {remedy}"
        for attribute, value in vars(one).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                return f"remove {f'{name}.{attribute}'.lstrip('.')}, which is the result of a computation"
    return "remove what cannot be, such as tensors that are results of computations"
