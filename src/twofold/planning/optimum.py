"""One choice over all layers that neither a rule nor the user has decided."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twofold.conv import ConvLayer, Skipped
from twofold.errors import PlanError, option
from twofold.lowrank.protocols import RankErrors
from twofold.planning.budget import Budget, Cost
from twofold.planning.candidates import Candidate, candidates
from twofold.planning.objective import Objective
from twofold.planning.options import PlanOptions
from twofold.planning.rules import no_candidate_reason
from twofold.planning.solve import Solution, solve
from twofold.planning.workload import Workload
from twofold.progress import track

Vector = NDArray[np.float64]

UNCHANGED = "unchanged is its best use of the budget"


@dataclass(frozen=True, eq=False)
class Problem:
    """What is left to choose.

    Attributes:
        layers: those to choose for.
        offers: per layer, its candidates, each cheaper than the layer in the budget's unit.
        costs: per layer, (1 + candidates,): cost of the layer as it is, then of its candidates.
        errors: per layer, (1 + candidates,): squared output error, 0 for the layer as it is.
        spent: cost of all that is decided: layers left alone and fixed, and what lies beside convolutions.
        error: squared output error of all that is decided.
        total: cost of the original network.
    """

    layers: tuple[ConvLayer, ...]
    offers: tuple[tuple[Candidate, ...], ...]
    costs: tuple[Vector, ...]
    errors: tuple[Vector, ...]
    spent: float
    error: float
    total: float

    @classmethod
    def pose(
        cls,
        layers: Sequence[ConvLayer | Skipped],
        factorizations: Mapping[str, Sequence[RankErrors]],
        decided: Mapping[str, Candidate | None],
        objective: Objective,
        cost: Cost,
        workload: Workload,
        multiple: int,
    ) -> Problem:
        """Collect costs and errors.

        Args:
            layers: all convolutions of the network.
            factorizations: by name of the layer.
            decided: by name of the layer, what it becomes; None if it stays. The others are to be chosen.
            objective: gives the errors.
            cost: gives the costs.
            workload: how MACs are counted.
            multiple: ranks are multiples of this.
        """
        free, offers, costs, errors = [], [], [], []
        spent, error = cost.base, 0.0
        for layer in track(layers, "listing candidates"):
            own = cost.of_layer(layer)
            if isinstance(layer, Skipped) or layer.name in decided:
                pick = decided.get(layer.name)
                if isinstance(layer, Skipped) or pick is None:
                    spent += own
                else:
                    spent += cost.of_candidate(layer, pick)
                    error += float(objective.squared_errors([pick])[0])
                continue
            offered = candidates(layer, factorizations.get(layer.name, ()), workload, multiple)
            priced = [(c, cost.of_candidate(layer, c)) for c in offered]
            offer = tuple(c for c, price in priced if price < own)
            free.append(layer)
            offers.append(offer)
            costs.append(np.array([own, *(price for _, price in priced if price < own)], np.float64))
            errors.append(np.concatenate(([0.0], objective.squared_errors(offer))))
        total = cost.base + sum(cost.of_layer(layer) for layer in layers)
        return cls(tuple(free), tuple(offers), tuple(costs), tuple(errors), spent, error, total)

    @property
    def least(self) -> float:
        """Lowest reachable cost of the network."""
        return self.spent + sum(float(costs.min()) for costs in self.costs)

    def within_cost(self, limit: float) -> Solution:
        """Choose the smallest error at a cost of the network of at most `limit`, which must be reachable."""
        return solve(self.costs, self.errors, limit - self.spent)

    def within_error(self, error: float) -> Solution:
        """Choose the cheapest network whose predicted output error is at most `error`.

        Raises:
            PlanError: what is decided already leads to a larger one.
        """
        if self.error > error**2:
            raise PlanError(
                f"the fixed ranks alone lead to a predicted output error of {math.sqrt(self.error):.4g}, "
                f"above {error:g}; raise them or the budget"
            )
        return solve(self.errors, self.costs, error**2 - self.error)

    def picks(self, solution: Solution, options: PlanOptions) -> dict[str, Candidate | str]:
        """Read a solution: by name of the layer its candidate, or the reason why it stays."""
        picks: dict[str, Candidate | str] = {}
        for layer, offer, index in zip(self.layers, self.offers, solution.picks, strict=True):
            stays = UNCHANGED if offer else no_candidate_reason(options)
            picks[layer.name] = offer[index - 1] if index else stays
        return picks


def out_of_reach(
    problem: Problem, limit: float, cost: Cost, options: PlanOptions, skipped: Sequence[Skipped]
) -> str:
    """Say by how much a budget cannot be met, and what would do; `skipped` are the layers that stay."""
    # Rounded up, so that what the message proposes is within reach.
    lowest = math.ceil(problem.least / problem.total * 1e4) / 1e4 if problem.total else 1.0
    asked = limit / problem.total if problem.total else 0.0
    words = _asked(options.budget, limit, asked, cost.label)
    if not problem.layers and not options.ranks and skipped:
        reason, count = Counter(layer.reason for layer in skipped).most_common(1)[0]
        of_them = "all of them" if count == len(skipped) else f"{count} of them"
        return f"{words}: none of the {len(skipped)} convolutions can be decomposed; {of_them}: {reason}"
    remedies = [f"a ratio of {lowest:.4f} or more"] if lowest < 1 else []
    if options.budget is not None and options.budget.absolute:
        remedies = [f"{math.ceil(problem.least)} {cost.label} or more"]
    if options.multiple > 1:
        remedies.append(f"{option('multiple')} below {options.multiple}")
    if options.ranks:
        remedies.append("smaller fixed ranks")
    if options.only or options.skip:
        remedies.append(f"fewer layers left out by {option('only')} and {option('skip')}")
    if len(options.schemes) == 1:
        remedies.append("more schemes")
    held = problem.spent / problem.total if problem.total else 0.0
    left = f" ({held:.4f} lie in layers that are left alone or fixed)" if held > 0 else ""
    return f"{words}: the lowest reachable ratio is {lowest:.4f}{left}. What would do: {', '.join(remedies)}"


def _asked(budget: Budget | None, limit: float, asked: float, name: str) -> str:
    if budget is None:
        return f"AMCT's rank rule would spend a {name} ratio of {asked:.4f}, which is out of reach"
    if budget.absolute:
        return f"{limit:.6g} {name} are out of reach (ratio {asked:.4f})"
    return f"a {name} ratio of {asked:.4f} is out of reach"
