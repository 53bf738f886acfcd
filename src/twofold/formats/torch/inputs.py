"""What a module's forward is called with: arguments, the tensors among them by name, items of a loader."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from .running import eagerly


@dataclass(frozen=True, eq=False)
class Arguments:
    """One call of a forward.

    Attributes:
        positional: arguments by position.
        named: arguments by name.
        names: of the positional ones, as forward calls its parameters.
    """

    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    names: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module, example_inputs: Any) -> Arguments:
        """Read example inputs: a tensor, a tuple of arguments, or a dict of named ones."""
        if isinstance(example_inputs, Mapping):
            return cls((), dict(example_inputs), ())
        given = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
        return cls(given, {}, _parameter_names(module, len(given)))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors among the arguments, by name."""
        every = {**dict(zip(self.names, self.positional, strict=True)), **self.named}
        return {name: value for name, value in every.items() if isinstance(value, Tensor)}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Arguments:
        """The same call with other tensors."""
        positional = tuple(
            tensors.get(name, value) for name, value in zip(self.names, self.positional, strict=True)
        )
        return Arguments(
            positional, {name: tensors.get(name, value) for name, value in self.named.items()}, self.names
        )

    def call(self, module: nn.Module) -> Any:
        """Call a module.

        Raises:
            InputError: it does not run.
        """
        try:
            with eagerly():
                return module(*self.positional, **self.named)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a forward raises
            class_name = type(module).__name__
            raise InputError(f"{class_name} does not run on the inputs that it was given: {error}") from error


def moved(value: Any, device: torch.device) -> Any:
    """Example inputs on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved(one, device) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(moved(one, device) for one in value)
    return value


def as_tensors(module: nn.Module, example_inputs: Any) -> Any:
    """Example inputs with tensors in the place of arrays, of the module's dtype and on its device."""
    if isinstance(example_inputs, Mapping):
        return {name: as_tensors(module, value) for name, value in example_inputs.items()}
    if type(example_inputs) in (tuple, list):
        return tuple(as_tensors(module, value) for value in example_inputs)
    return as_tensor(example_inputs, module) if isinstance(example_inputs, np.ndarray) else example_inputs


def _parameter_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Names of the first positional parameters of a forward."""
    parameters = inspect.signature(module.forward).parameters.values()
    names = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    rest = next((one.name for one in parameters if one.kind == one.VAR_POSITIONAL), "input")
    return tuple([*names, *(f"{rest}{i}" for i in range(count))][:count])


#: What data sets call that which stands beside an input.
_LABELS = ("label", "labels", "label_ids", "target", "targets", "y")


def inputs_among(module: nn.Module, item: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into a forward of a dict of a data set: the arguments that it has, no labels beside them.

    Where forward has no argument of any of the names, the only array of numbers with two axes or more does.

    Raises:
        InputError: there is none, or there are several.
    """
    arrays = {name: value for name, value in item.items() if hasattr(value, "shape")}
    fits = {name: value for name, value in arrays.items() if accepts(module, name)}
    parameters = inspect.signature(module.forward).parameters
    must = [name for name, one in parameters.items() if one.default is one.empty]
    without = {name: value for name, value in fits.items() if name not in _LABELS or name in must}
    if without or fits:
        return without or fits
    large = {name: value for name, value in arrays.items() if len(value.shape) > 1 and name not in _LABELS}
    if len(large) == 1:
        return large
    wanted = ", ".join(_parameters(module))
    raise InputError(f"data with {', '.join(map(repr, item))}, but forward takes {wanted or 'nothing'}")


def accepts(module: nn.Module, name: str) -> bool:
    """Whether a forward has an argument of a name."""
    parameters = inspect.signature(module.forward).parameters
    return name in _parameters(module) or any(one.kind == one.VAR_KEYWORD for one in parameters.values())


def _parameters(module: nn.Module) -> tuple[str, ...]:
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters
    return tuple(name for name, one in parameters.items() if one.kind in kinds)


def as_tensor(value: Any, module: nn.Module) -> Tensor:
    """A tensor or an array as a tensor like the module's parameters."""
    tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    like = next((one for one in module.parameters() if one.is_floating_point()), None)
    if like is None:
        return tensor
    return tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)
