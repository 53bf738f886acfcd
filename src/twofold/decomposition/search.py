"""Budgets that only a whole network can tell: plans are tried, and the cheapest that holds is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..conv import Factors
from ..errors import PlanError
from ..planning import Budget, Plan

#: Plans that are tried.
_ATTEMPTS = 6
#: A plan that uses so much of what it may lose is not improved any further.
_USED_UP = 0.93


@dataclass(frozen=True, eq=False)
class PlanTrial:
    """A plan that was tried.

    Attributes:
        plan: the plan.
        factors: its stacks by layer name.
        loss: what was measured: error of the outputs, or drop of accuracy.
    """

    plan: Plan
    factors: Mapping[str, Factors]
    loss: float


def within_error(limit: float, attempt: Callable[[Budget], PlanTrial]) -> PlanTrial:
    """The cheapest network whose measured error is at most `limit`.

    What single layers do to the outputs adds up to a prediction only; the bound that is given to the planner
    follows the ratio between what it predicts and what is measured.

    Args:
        limit: error of the outputs.
        attempt: makes a plan for a budget of predicted error and measures it.
    """
    best: PlanTrial | None = None
    # The more may be lost, the cheaper is what the planner finds.
    target, reached = limit, -1.0
    for _ in range(_ATTEMPTS):
        found = attempt(Budget("error", target))
        if found.loss <= limit and target > reached:
            best, reached = found, target
        if not found.plan.choices or _USED_UP * limit <= found.loss <= limit:
            break
        factor = (1 + _USED_UP) / 2 * limit / max(found.loss, limit / 4)
        target *= min(max(factor, 0.25), 2.0)
    return best or attempt(Budget("error", 0.0))


def within_drop(limit: float, attempt: Callable[[Budget], PlanTrial], unit: str = "macs") -> PlanTrial:
    """The cheapest network whose accuracy drops by at most `limit`, found by bisection over its cost.

    Args:
        limit: drop of accuracy.
        attempt: makes a plan for a ratio of the cost and measures it.
        unit: of the cost.
    """
    best = attempt(Budget(unit, 1.0))
    low, high = 0.0, 1.0
    for _ in range(_ATTEMPTS):
        middle = (low + high) / 2
        try:
            found = attempt(Budget(unit, middle))
        except PlanError:  # so low a cost cannot be reached
            low = middle
            continue
        if found.loss <= limit:
            best, high = found, middle
        else:
            low = middle
    return best
