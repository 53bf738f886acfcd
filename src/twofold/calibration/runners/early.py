"""What the first layer with weights of a module is given, and its first batch normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import InputError
from ..inputs import Batch
from ..runner import Norm, Place

Run = Callable[[Batch], Any]


class _Reached(BaseException):
    """A layer was called that was waited for."""

    def __init__(self, module: nn.Module, given: Tensor) -> None:
        super().__init__()
        self.module, self.given = module, given


def first_place(module: nn.Module, run: Run, example: Batch) -> Place | None:
    """Where the first layer with weights stands.

    Args:
        module: the module.
        run: runs it.
        example: a batch that it takes.
    """
    weighted = [one for one in _parts(module) if isinstance(getattr(one, "weight", None), Tensor)]
    found = _first(weighted, run, example)
    return None if found is None else Place(_name(module, found), partial(_given, found, run))


def first_norm(module: nn.Module, run: Run, example: Batch) -> Norm | None:
    """Where the first layer that stores a mean and a variance stands; arguments as for `first_place`."""
    found = _first([one for one in _parts(module) if _statistics(one)], run, example)
    if found is None:
        return None
    mean, variance = _statistics(found)
    return Norm(_name(module, found), partial(_given, found, run), mean, variance)


def _parts(module: nn.Module) -> list[nn.Module]:
    """What hooks can be put on."""
    return [one for one in module.modules() if not isinstance(one, torch.jit.ScriptModule)]


def _statistics(module: nn.Module) -> tuple[NDArray[np.float32], ...]:
    """Mean and variance per channel, whatever the class is called: there are frozen ones, and fused ones.

    The mean of 0 and variance of 1 that they began with are taken out again: after n batches they still
    stand in them with a weight of (1 - momentum)^n.
    """
    stored = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    tensors = [one for one in stored if isinstance(one, Tensor) and one.dim() == 1]
    if len(tensors) < 2:
        return ()
    mean, variance = (one.detach().to("cpu", torch.float32).numpy() for one in tensors)
    batches, momentum = getattr(module, "num_batches_tracked", None), getattr(module, "momentum", None)
    if batches is None or not int(batches) or not isinstance(momentum, float):
        return mean, variance
    first = (1 - momentum) ** int(batches)
    left = np.asarray(np.maximum(variance - first, 0), np.float32)  # 0 for a channel that is constant
    if first >= 1 or np.median(left) <= 0:  # they were not gathered in that way
        return mean, variance
    return tuple(np.asarray(one / (1 - first), np.float32) for one in (mean, left))


def _name(module: nn.Module, part: nn.Module) -> str:
    return next((name for name, one in module.named_modules() if one is part), "") or type(part).__name__


def _first(modules: Sequence[nn.Module], run: Run, example: Batch) -> nn.Module | None:
    reached = _until(modules, run, example)
    return None if reached is None else reached.module


def _given(module: nn.Module, run: Run, batch: Batch) -> NDArray[np.float32]:
    reached = _until([module], run, batch)
    if reached is None:
        raise InputError(f"{type(module).__name__} is not reached with every input")
    return np.array(reached.given.detach().to("cpu", torch.float32).numpy())


def _until(modules: Sequence[nn.Module], run: Run, batch: Batch) -> _Reached | None:
    """Run until one of some modules is called, and what it is given; None where none is."""

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(given, Tensor):
            raise _Reached(module, given)

    handles = [one.register_forward_pre_hook(stop, with_kwargs=True) for one in modules]
    try:
        with torch.no_grad():
            run(batch)
    except _Reached as reached:
        return reached
    finally:
        for handle in handles:
            handle.remove()
    return None
