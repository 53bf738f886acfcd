"""One choice per layer at the smallest summed error under a limit: the multiple-choice knapsack.

Exact unless the search has to be cut short, and then the distance to a proven lower bound is known. The
roles of cost and error are symmetric, so the cheapest network below an error is the same problem.

Method (Sinha and Zoltners 1979; Pisinger, A minimal algorithm for the multiple-choice knapsack problem,
1995): the linear relaxation is solved by taking the steps of the layers' lower convex hulls in order of error
saved per cost. Its value is a lower bound, its integral part nearly a solution; the remainder is filled by
single moves. With the multiplier of the relaxation, every item whose reduced cost exceeds the gap between
the two is ruled out, and a dynamic program over undominated partial sums settles the few that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Indices = NDArray[np.intp]

MAX_STATES = 3000
"""Partial sums that the dynamic program keeps per layer; with more it keeps those of lowest bound."""

_SLACK = 1e-12
"""Relative rounding allowance when a bound is compared with a solution: sums of a few hundred doubles."""


@dataclass(frozen=True)
class Solution:
    """What `solve` found.

    Attributes:
        picks: for each layer, the index of its chosen item.
        cost: summed cost of the picks.
        error: summed error of the picks.
        bound: no choice under the limit has a smaller error; equals `error` where `exact`.
        exact: whether the picks are proven to be optimal.
    """

    picks: tuple[int, ...]
    cost: float
    error: float
    bound: float
    exact: bool


@dataclass(frozen=True, eq=False)
class _Group:
    """Undominated items of one layer, cost rising, error falling; `hull` are positions on the convex hull."""

    index: Indices
    cost: Vector
    error: Vector
    hull: Indices

    @classmethod
    def of(cls, cost: Vector, error: Vector, index: Indices) -> _Group:
        keep = pareto(cost, error)
        cost, error = cost[keep], error[keep]
        return cls(index[keep], cost, error, _lower_hull(cost, error))


def pareto(cost: Vector, error: Vector) -> Indices:
    """Positions of the items that no other item beats in cost and error, cheapest first.

    Of equal items the first is kept.
    """
    order = np.lexsort((np.arange(len(cost)), error, cost))
    best_before = np.concatenate(([np.inf], np.minimum.accumulate(error[order])[:-1]))
    return order[error[order] < best_before]


def _lower_hull(cost: Vector, error: Vector) -> Indices:
    """Positions of the corners of the lower convex hull (Andrew's monotone chain)."""
    hull: list[int] = []
    for point in range(len(cost)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            cross = (cost[b] - cost[a]) * (error[point] - error[a]) - (error[b] - error[a]) * (
                cost[point] - cost[a]
            )
            if cross > 0:
                break
            hull.pop()
        hull.append(point)
    return np.array(hull, dtype=np.intp)


@dataclass(frozen=True, eq=False)
class _Relaxation:
    """The linear relaxation over some groups as a function of the limit: convex, piecewise linear.

    Attributes:
        base: summed cost and error of the groups' cheapest items.
        steps: (2, steps), cost and saved error of the steps of all hulls, best first.
        group: (steps,), whose step it is.
        cost: (steps + 1,), summed cost after each step.
        error: (steps + 1,), summed error after each step.
    """

    base: tuple[float, float]
    steps: Vector
    group: Indices
    cost: Vector
    error: Vector

    @classmethod
    def of(cls, groups: Sequence[_Group]) -> _Relaxation:
        steps = [np.stack([np.diff(g.cost[g.hull]), -np.diff(g.error[g.hull])]) for g in groups]
        owners = [np.full(step.shape[1], i, dtype=np.intp) for i, step in enumerate(steps)]
        joined = np.concatenate([*steps, np.empty((2, 0))], axis=1)
        owner = np.concatenate([*owners, np.empty(0, np.intp)])
        # Stable, so that the steps of one hull, whose slopes fall, stay in their order even where slopes tie.
        order = np.argsort(-joined[1] / joined[0], kind="stable")
        base = sum(float(g.cost[0]) for g in groups), sum(float(g.error[0]) for g in groups)
        return cls._summed(base, joined[:, order], owner[order])

    @classmethod
    def _summed(cls, base: tuple[float, float], steps: Vector, group: Indices) -> _Relaxation:
        sums = np.concatenate([np.zeros((2, 1)), np.cumsum(steps, axis=1)], axis=1)
        return cls(base, steps, group, base[0] + sums[0], base[1] - sums[1])

    def without(self, which: int, group: _Group) -> _Relaxation:
        """The relaxation of the other groups; the order of their steps is the same, so nothing is sorted."""
        keep = self.group != which
        base = self.base[0] - float(group.cost[0]), self.base[1] - float(group.error[0])
        return self._summed(base, self.steps[:, keep], self.group[keep])

    def bound(self, limits: Vector) -> Vector:
        """Smallest relaxed error under each limit; infinite where even the cheapest items do not fit."""
        value: Vector = np.interp(limits, self.cost, self.error)
        return np.where(limits < self.cost[0], np.inf, value)


def solve(
    costs: Sequence[Vector], errors: Sequence[Vector], limit: float, max_states: int = MAX_STATES
) -> Solution:
    """Choose one item per layer with the smallest summed error at a summed cost of at most `limit`.

    Law: no single other item of a layer fits into what is left and has a smaller error.

    Args:
        costs: per layer, (items,): cost of each item, any unit.
        errors: per layer, (items,): error of each item; what is minimised is their plain sum.
        limit: largest allowed sum of costs.
        max_states: width of the search; see `Solution.exact`.

    Returns:
        The solution, with a proof of its quality.

    Raises:
        ValueError: if even the cheapest items exceed the limit.
    """
    return Knapsack.of(costs, errors).solve(limit, max_states)


@dataclass(frozen=True, eq=False)
class Knapsack:
    """The items of all layers, prepared once for any number of limits.

    Attributes:
        groups: per layer, its undominated items.
        relaxation: over all of them.
    """

    groups: Sequence[_Group]
    relaxation: _Relaxation

    @classmethod
    def of(cls, costs: Sequence[Vector], errors: Sequence[Vector]) -> Knapsack:
        """Prepare.

        Args:
            costs: per layer, (items,): cost of each item, any unit.
            errors: per layer, (items,): error of each item.
        """
        groups = [
            _Group.of(np.asarray(c, np.float64), np.asarray(e, np.float64), np.arange(len(c)))
            for c, e in zip(costs, errors, strict=True)
        ]
        return cls(groups, _Relaxation.of(groups))

    def solve(self, limit: float, max_states: int = MAX_STATES) -> Solution:
        """See the function `solve`."""
        groups, relaxation = self.groups, self.relaxation
        if limit < relaxation.cost[0]:
            raise ValueError(f"the cheapest items cost {relaxation.cost[0]:g}, more than the limit {limit:g}")
        picks, multiplier = _greedy(groups, relaxation, limit)
        picks = _fill(groups, picks, limit)
        bound = float(relaxation.bound(np.array([limit]))[0])
        best = _total(groups, picks, "error")
        exact = True
        if best > bound + _SLACK * abs(best):
            core = _core(groups, multiplier, limit, best)
            better, exact = _search(core, limit, best, max_states)
            if better is not None:
                places = zip(groups, better, strict=True)
                picks = _fill(groups, [int(np.flatnonzero(g.index == i)[0]) for g, i in places], limit)
                best = _total(groups, picks, "error")
        chosen = tuple(int(g.index[p]) for g, p in zip(groups, picks, strict=True))
        return Solution(chosen, _total(groups, picks, "cost"), best, best if exact else bound, exact)


def _total(groups: Sequence[_Group], picks: Sequence[int], what: str) -> float:
    return float(sum(getattr(g, what)[p] for g, p in zip(groups, picks, strict=True)))


def _greedy(groups: Sequence[_Group], relaxation: _Relaxation, limit: float) -> tuple[list[int], float]:
    """Take hull steps in order while they fit.

    Returns:
        Positions in the groups, and the multiplier: error saved per cost at the step where the relaxation
        breaks.
    """
    step_of = [0] * len(groups)
    stuck: set[int] = set()
    multiplier = 0.0
    used = float(relaxation.cost[0])
    for step, owner in enumerate(relaxation.group.tolist()):
        if owner in stuck:
            continue
        cost = float(relaxation.cost[step + 1] - relaxation.cost[step])
        if used + cost <= limit:
            used += cost
            step_of[owner] += 1
            continue
        stuck.add(owner)
        multiplier = multiplier or float(relaxation.error[step] - relaxation.error[step + 1]) / cost
    picks = [int(g.hull[s]) for g, s in zip(groups, step_of, strict=True)]
    return picks, multiplier


def _fill(groups: Sequence[_Group], picks: Sequence[int], limit: float) -> list[int]:
    """Spend what is left by single moves, each the one that saves most, until none fits."""
    picks = list(picks)
    # The picks were summed in another order; where they cost more in this one, by rounding, the dearest goes.
    while _total(groups, picks, "cost") > limit:
        dearest = max((i for i, p in enumerate(picks) if p), key=lambda i: float(groups[i].cost[picks[i]]))
        picks[dearest] -= 1
    while True:
        left = limit - _total(groups, picks, "cost")
        best_saving, best = 0.0, (-1, -1)
        for i, (group, pick) in enumerate(zip(groups, picks, strict=True)):
            # Errors fall with the cost, so the dearest item that fits is the best of its group.
            position = int(np.searchsorted(group.cost, group.cost[pick] + left, side="right")) - 1
            saving = float(group.error[pick] - group.error[position]) if position > pick else 0.0
            if saving > best_saving:
                best_saving, best = saving, (i, position)
        trial = list(picks)
        if best[0] >= 0:
            trial[best[0]] = best[1]
        if best[0] < 0 or _total(groups, trial, "cost") > limit:
            return picks
        picks = trial


def _core(groups: Sequence[_Group], multiplier: float, limit: float, best: float) -> list[_Group]:
    """Drop the items that no solution better than `best` can contain.

    The Lagrangian L = sum of min(error + m cost) - m limit bounds every choice from below; forcing an item
    adds its reduced cost to L.
    """
    penalised = [g.error + multiplier * g.cost for g in groups]
    lagrangian = sum(float(p.min()) for p in penalised) - multiplier * limit
    scale = _SLACK * (abs(best) + multiplier * abs(limit))
    core = []
    for group, value in zip(groups, penalised, strict=True):
        keep = np.flatnonzero(lagrangian + (value - value.min()) <= best + scale)
        core.append(_Group.of(group.cost[keep], group.error[keep], group.index[keep]))
    return core


def _search(
    groups: Sequence[_Group], limit: float, best: float, max_states: int
) -> tuple[list[int] | None, bool]:
    """Dynamic program over undominated partial sums, pruned by the relaxation of the layers still to come.

    Returns:
        Indices of the items of a choice with an error below `best`, or None if there is none (or none was
        met), and whether the search was complete.
    """
    # Layers with wide cost steps first: the fine ones then fill what is left, and bounds become tight early.
    order = sorted(range(len(groups)), key=lambda i: -float(np.ptp(groups[i].cost)))
    cost, error = np.zeros(1), np.zeros(1)
    parents: list[Indices] = []
    items: list[Indices] = []
    complete = True
    rest = _Relaxation.of(groups)
    for which in order:
        group = groups[which]
        rest = rest.without(which, group)
        new_cost = (cost[:, None] + group.cost[None, :]).ravel()
        new_error = (error[:, None] + group.error[None, :]).ravel()
        bound = new_error + rest.bound(limit - new_cost)
        alive = np.flatnonzero(bound < best - _SLACK * abs(best))
        alive = alive[pareto(new_cost[alive], new_error[alive])]
        if len(alive) > max_states:
            alive = alive[np.argsort(bound[alive], kind="stable")[:max_states]]
            complete = False
        if not len(alive):
            return None, complete
        parents.append(alive // len(group.cost))
        items.append(group.index[alive % len(group.cost)])
        cost, error = new_cost[alive], new_error[alive]
    return _trace(order, parents, items, int(np.argmin(error))), complete


def _trace(
    order: Sequence[int], parents: Sequence[Indices], items: Sequence[Indices], state: int
) -> list[int]:
    """Read the choice that led to a final state, back to front."""
    picks = [0] * len(order)
    for which, parent, item in zip(reversed(order), reversed(parents), reversed(items), strict=True):
        picks[which] = int(item[state])
        state = int(parent[state])
    return picks
