"""Learning rates by iteration: Caffe's policies.

Source: BVLC Caffe 1.0, `sgd_solver.cpp`, `GetLearningRate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import OptionError
from ..registry import Registry
from .definition import SolverDefinition

#: From a definition, an iteration and the number of steps taken so far to the factor of `base_lr`.
Policy = Callable[[SolverDefinition, int, int], float]


def _sigmoid(solver: SolverDefinition, iteration: int, steps: int) -> float:
    """Rises for a positive gamma, whatever Caffe's documentation says; a negative one makes it fall."""
    return 1 / (1 + math.exp(-solver.gamma * (iteration - solver.stepsize)))


POLICIES: Registry[str, Policy] = Registry(
    "lr_policy",
    {
        "fixed": lambda solver, iteration, steps: 1.0,
        "step": lambda solver, iteration, steps: solver.gamma**steps,
        "multistep": lambda solver, iteration, steps: solver.gamma**steps,
        "exp": lambda solver, iteration, steps: solver.gamma**iteration,
        "inv": lambda solver, iteration, steps: (1 + solver.gamma * iteration) ** -solver.power,
        "poly": lambda solver, iteration, steps: (1 - iteration / solver.max_iter) ** solver.power,
        "sigmoid": _sigmoid,
    },
)
#: Rates multiply values in float32.
LARGEST_RATE = float.fromhex("0x1.fffffep127")
#: Options that a policy divides by.
_NEEDS = {"step": "stepsize", "poly": "max_iter"}


@dataclass
class Schedule:
    """The rate of every iteration, asked for in order.

    Attributes:
        solver: the options.
        steps: steps taken so far by the policies step and multistep; snapshots keep it.
    """

    solver: SolverDefinition
    steps: int = 0

    def __post_init__(self) -> None:
        policy = self.solver.lr_policy
        POLICIES.find(policy)
        if policy in _NEEDS and getattr(self.solver, _NEEDS[policy]) < 1:
            raise OptionError(f"lr_policy {policy!r} needs a positive {_NEEDS[policy]}")
        last = max(self.solver.max_iter - 1, 0)
        # Most policies rise or fall all the way; what is between is asked for later.
        for iteration in (0, last):
            steps = sum(value <= iteration for value in self.solver.stepvalue)
            self._rate(iteration, iteration // self.solver.stepsize if policy == "step" else steps)

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration; advances `steps`.

        Raises:
            OptionError: the policy gives none.
        """
        solver = self.solver
        if solver.lr_policy == "step":
            self.steps = iteration // solver.stepsize
        elif solver.lr_policy == "multistep":
            # One step per iteration at most: two equal stepvalues take effect one after the other.
            self.steps += self.steps < len(solver.stepvalue) and iteration >= solver.stepvalue[self.steps]
        return self._rate(iteration, self.steps)

    def _rate(self, iteration: int, steps: int) -> float:
        solver = self.solver
        try:
            rate = solver.base_lr * POLICIES[solver.lr_policy](solver, iteration, steps)
        except (OverflowError, ZeroDivisionError):
            rate = math.inf
        # A broken power of a negative number is a complex one.
        if isinstance(rate, complex) or not abs(rate) <= LARGEST_RATE:
            raise OptionError(
                f"lr_policy {solver.lr_policy!r} with base_lr {solver.base_lr:g}, gamma {solver.gamma:g} and "
                f"power {solver.power:g} gives no learning rate in iteration {iteration}, but {rate:g}; "
                "change these"
            )
        return rate
