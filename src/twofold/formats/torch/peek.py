"""What a module's forward gets, by the first of some data: a batch, or a sample as data sets give it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ...errors import InputError, ModelError
from .copies import copied, evaluated
from .inputs import Arguments, accepts, as_tensor, inputs_among
from .running import same_randomness


def peeked(module: nn.Module, data: Any) -> tuple[Any, Any]:
    """The first sample of some data as example inputs, and data that still hold it.

    Args:
        module: decides how many values of a tuple go in: as many as its forward must have, so that of a
            loader's (input, label) only the input does.
        data: what forward takes, or an iterable of it, as arrays, tensors, tuples or dicts: batches, or
            samples without a batch axis.

    Raises:
        InputError: there is nothing, or nothing that can be read as arguments.
    """
    first = data
    if not (hasattr(data, "shape") or isinstance(data, Mapping)):
        try:
            iterator = iter(data)
        except TypeError:
            raise InputError(
                f"data must be tensors or an iterable of them, got {type(data).__name__}"
            ) from None
        first = next(iterator, None)
        if first is None:
            raise InputError("there is not a single sample: the inputs are empty")
        data = itertools.chain([first], iterator)
    if isinstance(first, (tuple, list)) and first and isinstance(first[0], Mapping):
        first = first[0]
    if isinstance(first, Mapping):
        taken = inputs_among(module, first)
        if len(taken) == 1 and not accepts(module, next(iter(taken))):  # named otherwise: the only argument
            return _one_sample(module, tuple(taken.values())), data
        return _one_sample(module, taken), data
    items = first if isinstance(first, (tuple, list)) else (first,)
    return _one_sample(module, tuple(items[: _needed(module)])), data


def _needed(module: nn.Module) -> int:
    """Number of arguments that a forward must have; at least one."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return max(1, sum(one.kind in kinds and one.default is one.empty for one in parameters))


def _one_sample(module: nn.Module, values: tuple[Any, ...] | dict[str, Any]) -> Any:
    """A batch of one of a batch, or of a sample; where shapes leave it open, what the module runs on."""
    every = values.values() if isinstance(values, dict) else values
    for value in every:
        if not hasattr(value, "shape"):
            raise InputError(f"data must give tensors or arrays, got a {type(value).__name__}")
    tensors = [as_tensor(value, module) for value in every]

    def arguments(form: Callable[[Tensor], Tensor]) -> Any:
        made = tuple(map(form, tensors))
        return dict(zip(values, made, strict=True)) if isinstance(values, dict) else made

    batch = arguments(lambda one: one[:1] if one.ndim else one)
    sample = arguments(lambda one: one[None] if one.ndim else one)
    conv = next((one for one in module.modules() if isinstance(one, _ConvNd)), None)
    axes = 1 if conv is None else 1 + len(conv.kernel_size)  # of a sample
    if any(one.ndim > axes for one in tensors):
        return batch
    # A sample with a single channel runs as a batch of one, too, which later samples are not to be joined to.
    channels = conv is not None and any(one.ndim == axes and len(one) == conv.in_channels for one in tensors)
    first, second = (sample, batch) if channels else (batch, sample)
    return second if not _runs(module, first) and _runs(module, second) else first


def _runs(module: nn.Module, example_inputs: Any) -> bool:
    try:
        copy = evaluated(copied(module))
        with torch.no_grad(), same_randomness():
            Arguments.of(copy, example_inputs).call(copy)
    except (InputError, ModelError):
        return False
    return True
