"""What other ranks and other budgets would give: read from factorizations and curves that a plan was made of.

Nothing is measured again: the layers' curves are read from their factorizations, and the network's from the
plan's own problem, solved at a series of limits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from twofold.conv import Array, ConvLayer, Size, Skipped
from twofold.errors import PlanError
from twofold.lowrank.protocols import RankErrors
from twofold.planning.amct import amct_mode, amct_rejection
from twofold.planning.budget import Cost, MacsCost
from twofold.planning.candidates import candidate_at, candidates, candidates_at
from twofold.planning.make import problem_of
from twofold.planning.objective import Objective
from twofold.planning.options import PlanOptions
from twofold.planning.plan import Choice, Plan
from twofold.planning.rules import amct_layer_rank
from twofold.planning.solve import Knapsack
from twofold.planning.workload import Workload
from twofold.progress import track

#: Ranks of a layer's curve, and budgets of the network's.
POINTS = 24
#: A curve needs no proof of optimality; a narrow search is within its line's width.
_STATES = 64

Layers = Sequence[ConvLayer | Skipped]
Factored = Mapping[str, Sequence[RankErrors]]


@dataclass(frozen=True, eq=False)
class ReadErrors:
    """The errors of one factorization without its matrices, which need as much memory as the weights.

    Attributes: see `lowrank.protocols.RankErrors`.
    """

    scheme: str
    variant: str
    max_ranks: Size
    singular_values: Array | None
    errors: Array

    @classmethod
    def of(cls, factorization: RankErrors) -> ReadErrors:
        """Read them."""
        return cls(
            factorization.scheme, factorization.variant, factorization.max_ranks,
            factorization.singular_values, np.asarray(factorization.energy_errors(), np.float64),
        )  # fmt: skip

    def energy_errors(self) -> Array:
        """See `lowrank.protocols.RankErrors`."""
        return self.errors

    def energy_error(self, ranks: Size) -> float:
        """See `lowrank.protocols.RankErrors`."""
        return float(self.errors[ranks])


@dataclass(frozen=True)
class RankCurve:
    """Error of one layer by rank.

    Attributes:
        scheme: registered name of the scheme.
        variant: variant of the scheme.
        ranks: rising; of a scheme with several, those that no others beat in error and MACs.
        macs: of the stack at each of them.
        errors: relative error of the layer's output (of its weight, without data), predicted.
    """

    scheme: str
    variant: str
    ranks: tuple[Size, ...]
    macs: tuple[int, ...]
    errors: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.ranks) == len(self.macs) == len(self.errors):
            raise ValueError(
                f"a curve has as many ranks as MACs and errors, got {len(self.ranks)}, {len(self.macs)} and "
                f"{len(self.errors)}"
            )
        if not all(self.ranks):
            raise ValueError(f"a curve has one rank or more at every point, got {self.ranks}")


@dataclass(frozen=True)
class LayerCurves:
    """One layer's curves.

    Attributes:
        layer: its name.
        curves: one per scheme and variant that competed.
    """

    layer: str
    curves: tuple[RankCurve, ...]


@dataclass(frozen=True)
class Tradeoff:
    """What the network would lose under other budgets.

    Attributes:
        budget: metric of the budget, as "macs".
        label: its unit in words.
        measured: whether errors are relative errors of the network's output, predicted from measured
            sensitivities; else the root of the layers' summed lost fractions of energy, only good to
            compare by.
        ratios: cost after / before, rising.
        errors: the smallest predicted error at each.
        chosen: ratio and error of the plan.
        reference: ratio and error of the ranks of AMCT's rank rule with factors fitted like the plan's;
            None where these ranks were not factorized.
    """

    budget: str
    label: str
    measured: bool
    ratios: tuple[float, ...]
    errors: tuple[float, ...]
    chosen: tuple[float, float]
    reference: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if len(self.ratios) != len(self.errors):
            raise ValueError(
                f"a curve has as many ratios as errors, got {len(self.ratios)} and {len(self.errors)}"
            )


@dataclass(frozen=True)
class TradeoffCurves:
    """All curves around one plan.

    Attributes:
        layers: of every layer that was factorized.
        tradeoffs: of the network: by MACs, and by time where times are known; none where a rule chose.
    """

    layers: tuple[LayerCurves, ...] = ()
    tradeoffs: tuple[Tradeoff, ...] = ()

    @classmethod
    def of(
        cls, plan: Plan, layers: Layers, factored: Factored, options: PlanOptions, objective: Objective,
        cost: Cost | None = None,
    ) -> TradeoffCurves:  # fmt: skip
        """Read the curves.

        Args:
            plan: what was decided.
            layers: all convolutions of the network.
            factored: their factorizations, which the plan was made from.
            options: of the plan.
            objective: what candidates do to the network's output.
            cost: in which else than MACs the plan was made, such as time.
        """
        workload = Workload.of(layers)
        by_name = {layer.name: layer for layer in layers if isinstance(layer, ConvLayer)}
        curves = tuple(
            LayerCurves(name, tuple(_curve(by_name[name], one, workload, options.multiple) for one in of))
            for name, of in track(factored.items(), "reading curves")
        )
        costs: list[Cost] = [MacsCost(workload), *([cost] if cost is not None else [])]
        if options.rule is not None:
            return cls(curves)
        found = [_tradeoff(plan, layers, factored, options, objective, one) for one in costs]
        return cls(curves, tuple(one for one in found if one is not None))


def _curve(layer: ConvLayer, factorization: RankErrors, workload: Workload, multiple: int) -> RankCurve:
    if len(factorization.max_ranks) == 1:
        limit = factorization.max_ranks[0]
        steps = np.unique(np.linspace(1, limit, min(POINTS, limit)).round().astype(np.int64))
        points = list(candidates_at(layer, factorization, steps, workload))
    else:
        offered = sorted(
            candidates(layer, [factorization], workload, multiple),
            key=lambda one: (one.macs, one.energy_error),
        )
        points, least = [], math.inf
        for one in offered:
            if one.energy_error < least:
                points.append(one)
                least = one.energy_error
        points = points[:: max(1, -(-len(points) // POINTS))]
    return RankCurve(
        factorization.scheme, factorization.variant, tuple(one.ranks for one in points),
        tuple(one.macs for one in points), tuple(one.relative_error for one in points),
    )  # fmt: skip


def _tradeoff(
    plan: Plan, layers: Layers, factored: Factored, options: PlanOptions, objective: Objective, cost: Cost
) -> Tradeoff | None:
    problem = problem_of(layers, factored, options, objective, cost)
    if not problem.total or not problem.layers or problem.least >= problem.total:
        return None
    ratios, errors = [], []
    # Up by what the sums may be rounded by, so that the least is reached.
    limits = np.linspace(problem.least, problem.total, POINTS) + 1e-9 * problem.total
    knapsack = Knapsack.of(problem.costs, problem.errors)
    for limit in track(limits, "solving other budgets"):
        solution = knapsack.solve(limit - problem.spent, _STATES)
        ratios.append((solution.cost + problem.spent) / problem.total)
        errors.append(math.sqrt(max(solution.error + problem.error, 0.0)))
    return Tradeoff(
        cost.name, cost.label, objective.measured, tuple(ratios), tuple(errors),
        _chosen(plan, layers, factored, objective, cost, problem.total),
        _reference(layers, factored, objective, cost, problem.total),
    )  # fmt: skip


def _chosen(
    plan: Plan, layers: Layers, factored: Factored, objective: Objective, cost: Cost, total: float
) -> tuple[float, float]:
    """Ratio and error of the plan in this unit."""
    choices = {choice.layer: choice for choice in plan.choices}
    workload, spent, error = Workload.of(layers), cost.base, 0.0
    for layer in layers:
        choice = choices.get(layer.name)
        if choice is None or isinstance(layer, Skipped):
            spent += cost.of_layer(layer)
            continue
        pick = candidate_at(layer, _of(factored[layer.name], choice), choice.ranks, workload)
        spent += cost.of_candidate(layer, pick)
        error += float(objective.squared_errors([pick])[0])
    return spent / total, math.sqrt(error)


def _of(factorizations: Sequence[RankErrors], choice: Choice) -> RankErrors:
    split = (choice.scheme, choice.variant)
    return next(one for one in factorizations if (one.scheme, one.variant) == split)


def _reference(
    layers: Layers, factored: Factored, objective: Objective, cost: Cost, total: float
) -> tuple[float, float] | None:
    """AMCT's ranks in every layer that it would decompose; None where they were not factorized."""
    workload, spent, error = Workload.of(layers), cost.base, 0.0
    for layer in layers:
        if isinstance(layer, Skipped) or layer.name not in factored or amct_rejection(layer.geometry):
            spent += cost.of_layer(layer)
            continue
        split = ("spatial", amct_mode(layer.geometry).variant)
        found = [one for one in factored[layer.name] if (one.scheme, one.variant) == split]
        if not found:
            return None
        try:
            rank = (amct_layer_rank(layer, factored[layer.name]),)
            pick = candidate_at(layer, found[0], rank, workload)
            spent += cost.of_candidate(layer, pick)
        except PlanError:
            return None
        error += float(objective.squared_errors([pick])[0])
    return spent / total, math.sqrt(error)
