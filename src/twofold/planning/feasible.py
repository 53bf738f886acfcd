"""What can be rejected before anything is factorized: patterns, and budgets that no ranks can keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twofold.conv import ConvLayer, Size, Skipped
from twofold.planning.budget import COSTS, Cost
from twofold.planning.devices import PRESETS, BlockCost
from twofold.planning.make import Request, make_plan, problem_of, requests
from twofold.planning.objective import EqualWeights
from twofold.planning.options import PlanOptions
from twofold.planning.workload import Workload


def check_feasible(
    layers: Sequence[ConvLayer | Skipped], options: PlanOptions, cost: Cost | None = None
) -> None:
    """Reject what `make_plan` would reject whatever the layers' factorizations say.

    What a stack costs follows from shapes alone. Law: options that are rejected here are rejected by
    `make_plan`, too; a budget of MACs or params that `make_plan` finds out of reach is rejected here.

    Args:
        layers: all convolutions of the model.
        options: of the plan to come.
        cost: the unit of the budget where it is neither MACs nor params; without it such budgets pass.

    Raises:
        PlanError: a budget out of reach, patterns that match nothing, fixed ranks that do not exist.
    """
    shapes = _shapes(layers, options, all_ranks=cost is not None)
    budget = options.budget
    known = {*COSTS, *([] if cost is None else [cost.name])}
    if budget is None or options.rule is not None or budget.metric not in known:
        return
    make_plan(layers, shapes, options, cost=cost if cost and budget.metric == cost.name else None)


def least_ratio(layers: Sequence[ConvLayer | Skipped], options: PlanOptions) -> float | None:
    """The lowest ratio of MACs, or of weights where the budget is of these, that shapes allow.

    None for rules, which choose every rank by themselves.

    Raises:
        PlanError: patterns that match nothing, fixed ranks that do not exist.
    """
    shapes = _shapes(layers, options)
    if options.rule is not None:
        return None
    workload, metric = Workload.of(layers), "macs" if options.budget is None else options.budget.metric
    metric = metric if metric in COSTS else "macs"
    cost: Cost = COSTS[metric].build(workload)
    if options.device is not None and metric == "macs":
        cost = BlockCost(workload, PRESETS[options.device])
    problem = problem_of(layers, shapes, options, EqualWeights(), cost)
    return problem.least / problem.total if problem.total else None


def _shapes(
    layers: Sequence[ConvLayer | Skipped], options: PlanOptions, *, all_ranks: bool = False
) -> dict[str, list[_Shape]]:
    """What stands for the factorizations of each layer.

    Args:
        layers: all convolutions of the model.
        options: of the plan to come.
        all_ranks: whether the least ranks need not be the cheapest, as where times were measured.
    """
    by_name = {layer.name: layer for layer in layers if isinstance(layer, ConvLayer)}
    return {
        name: [
            _Shape(one.scheme, one.variant, one.max_ranks)
            if all_ranks
            else _Shape.least(by_name[name], one, options)
            for one in of_layer
        ]
        for name, of_layer in requests(layers, options).items()
    }


@dataclass(frozen=True)
class _Shape:
    """Stands for a factorization that is not made; all its errors are 0."""

    scheme: str
    variant: str
    max_ranks: Size
    singular_values: None = None

    @classmethod
    def least(cls, layer: ConvLayer, request: Request, options: PlanOptions) -> _Shape:
        """With the least ranks that the options allow, which are the cheapest; fixed ones as they are."""
        if options.ranks:
            return cls(request.scheme, request.variant, request.max_ranks)
        step = options.multiple // math.gcd(options.multiple, layer.geometry.groups)
        return cls(request.scheme, request.variant, tuple(min(rank, step) for rank in request.max_ranks))

    def energy_errors(self) -> NDArray[np.float64]:
        """See `RankErrors`."""
        return np.broadcast_to(0.0, tuple(rank + 1 for rank in self.max_ranks))

    def energy_error(self, ranks: Size) -> float:
        """See `RankErrors`."""
        return 0.0
