"""Update rules: what is subtracted from a parameter, given its gradient and its history.

All arithmetic is that of Caffe, in its order. The rate multiplies the gradient before it enters the history
of SGD and Nesterov, and what leaves it elsewhere.
Source: BVLC Caffe 1.0, `solvers/*_solver.cpp`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OptionError
from ..registry import Registry
from .definition import SolverDefinition

#: From options, rate, iteration, gradient and history (changed in place) to what is subtracted.
Update = Callable[[SolverDefinition, float, int, Tensor, tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True)
class Rule:
    """An update rule.

    Attributes:
        slots: tensors of history per parameter.
        update: computes the step.
        momentum: whether `momentum` may be set.
    """

    slots: int
    update: Update
    momentum: bool = True


def _sgd(
    s: SolverDefinition, rate: float, iteration: int, gradient: Tensor, history: tuple[Tensor, ...]
) -> Tensor:
    (velocity,) = history
    return velocity.mul_(s.momentum).add_(gradient, alpha=rate)


def _nesterov(
    s: SolverDefinition, rate: float, iteration: int, gradient: Tensor, history: tuple[Tensor, ...]
) -> Tensor:
    (velocity,) = history
    before = velocity.clone()
    velocity.mul_(s.momentum).add_(gradient, alpha=rate)
    return (1 + s.momentum) * velocity - s.momentum * before


def _adagrad(
    s: SolverDefinition, rate: float, iteration: int, gradient: Tensor, history: tuple[Tensor, ...]
) -> Tensor:
    (squares,) = history
    squares.add_(gradient.square())
    return rate * (gradient / (squares.sqrt() + s.delta))


def _rmsprop(
    s: SolverDefinition, rate: float, iteration: int, gradient: Tensor, history: tuple[Tensor, ...]
) -> Tensor:
    (squares,) = history
    squares.mul_(s.rms_decay).add_(gradient.square(), alpha=1 - s.rms_decay)
    return rate * (gradient / (squares.sqrt() + s.delta))


def _adadelta(
    s: SolverDefinition, rate: float, iteration: int, gradient: Tensor, history: tuple[Tensor, ...]
) -> Tensor:
    squares, updates = history
    squares.mul_(s.momentum).add_(gradient.square(), alpha=1 - s.momentum)
    step = gradient * ((updates + s.delta) / (squares + s.delta)).sqrt()
    updates.mul_(s.momentum).add_(step.square(), alpha=1 - s.momentum)
    return rate * step


def _adam(
    s: SolverDefinition, rate: float, iteration: int, gradient: Tensor, history: tuple[Tensor, ...]
) -> Tensor:
    mean, squares = history
    t = iteration + 1
    mean.mul_(s.momentum).add_(gradient, alpha=1 - s.momentum)
    squares.mul_(s.momentum2).add_(gradient.square(), alpha=1 - s.momentum2)
    correction = math.sqrt(1 - s.momentum2**t) / (1 - s.momentum**t)
    return rate * correction * (mean / (squares.sqrt() + s.delta))


RULES: Registry[str, Rule] = Registry(
    "solver type",
    {
        "SGD": Rule(1, _sgd),
        "Nesterov": Rule(1, _nesterov),
        "AdaGrad": Rule(1, _adagrad, momentum=False),
        "RMSProp": Rule(1, _rmsprop, momentum=False),
        "AdaDelta": Rule(2, _adadelta),
        "Adam": Rule(2, _adam),
    },
)


def rule_of(solver: SolverDefinition) -> Rule:
    """The update rule of a solver.

    Raises:
        OptionError: an unknown type, or options that it does not allow.
    """
    rule = RULES.find(solver.type)
    if solver.momentum and not rule.momentum:
        raise OptionError(f"momentum cannot be used with {solver.type}; Caffe rejects it, too")
    return rule


def decay(solver: SolverDefinition, value: Tensor, factor: float) -> Tensor | None:
    """Gradient of the regularization of a parameter, None where there is none.

    Args:
        solver: the options.
        value: the parameter.
        factor: its `decay_mult`.
    """
    strength = solver.weight_decay * factor
    if not strength:
        return None
    return strength * (value if solver.regularization_type == "L2" else torch.sign(value))
