"""Making a plan: from layers, their factorizations and options to one choice over the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twofold.conv import ConvLayer, Size, Skipped
from twofold.errors import OptionError, PlanError
from twofold.lowrank.protocols import RankErrors
from twofold.lowrank.schemes import scheme
from twofold.planning.amct import AmctRange, amct_mode, amct_rejection
from twofold.planning.budget import COSTS, Cost
from twofold.planning.candidates import Candidate, candidate_at, useful_ranks
from twofold.planning.devices import PRESETS, BlockCost
from twofold.planning.objective import EqualWeights, Objective
from twofold.planning.optimum import Problem, out_of_reach
from twofold.planning.options import PlanOptions, Selection, left_alone, select
from twofold.planning.plan import Choice, Plan
from twofold.planning.rules import RULES, RuleInput, amct_layer_rank
from twofold.planning.workload import Workload
from twofold.progress import track
from twofold.text import ranks_text

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Request:
    """One factorization that a plan needs.

    Attributes:
        scheme: registered name of the scheme.
        variant: variant of the scheme.
        max_ranks: largest ranks that will be read.
    """

    scheme: str
    variant: str
    max_ranks: Size


def requests(layers: Sequence[ConvLayer | Skipped], options: PlanOptions) -> dict[str, tuple[Request, ...]]:
    """Say which factorizations `make_plan` will read, so that no others are computed.

    Args:
        layers: all convolutions of the model.
        options: of the plan to come.

    Returns:
        By name of the layer; layers that need none are not in it.

    Raises:
        PlanError: the options do not fit the layers, see `select`.
    """
    selection, workload = select(layers, options), Workload.of(layers)
    wanted = {}
    for layer in selection.layers:
        of_layer = _requests_of(layer, selection, options, workload)
        if of_layer:
            wanted[layer.name] = of_layer
    return wanted


def make_plan(
    layers: Sequence[ConvLayer | Skipped],
    factorizations: Mapping[str, Sequence[RankErrors]],
    options: PlanOptions = PlanOptions(),  # noqa: B008 - a frozen value
    *,
    objective: Objective = EqualWeights(),  # noqa: B008 - a frozen value
    cost: Cost | None = None,
    sources: Mapping[str, str] | None = None,
) -> Plan:
    """Decide what every convolution of a network becomes.

    Without a rule: one choice per layer, "as it is" among them, that minimises the summed squared output
    error under the budget. Laws: the budget is met; no other choice for a single layer fits into what is left
    and lowers the error; every chosen candidate is cheaper than its layer, unless its rank is given by the
    user.

    Args:
        layers: all convolutions of the model in its order; those that cannot be decomposed as `Skipped`. A
            ratio refers to the sum over all of them.
        factorizations: by name of the layer, at least those that `requests` names.
        options: budget, rule, multiple, schemes, patterns, fixed ranks.
        objective: what candidates do to the network's output; by default all layers' energies count the same.
        cost: the unit of the budget if it is neither MACs nor params, such as a measured time.
        sources: sha256 of the model's files by file name, to be kept in the plan.

    Returns:
        The plan.

    Raises:
        PlanError: the budget is out of reach (by how much, and what would do); patterns that match nothing;
        fixed
            ranks that do not exist.
        OptionError: options that contradict each other.
    """
    workload = Workload.of(layers)
    unit = _cost_of(options, objective, cost, workload)
    selection = select(layers, options)
    maker = _Maker(layers, factorizations, options, objective, unit, selection, workload)
    return maker.plan(sources or {})


def as_fitted(
    plan: Plan,
    layers: Sequence[ConvLayer | Skipped],
    factorizations: Mapping[str, Sequence[RankErrors]],
    objective: Objective,
) -> Plan:
    """A plan with the errors of the fits at its ranks, where those that it was made with were estimates."""
    workload = Workload.of(layers)
    by_name = {layer.name: layer for layer in layers if isinstance(layer, ConvLayer)}

    def fitted(choice: Choice) -> Choice:
        of_layer = factorizations[choice.layer]
        one = next(one for one in of_layer if (one.scheme, one.variant) == (choice.scheme, choice.variant))
        pick = candidate_at(by_name[choice.layer], one, choice.ranks, workload)
        return replace(choice, relative_error=pick.relative_error, output_error=_alone(objective, pick))

    return replace(plan, choices=tuple(map(fitted, plan.choices)))


def _alone(objective: Objective, pick: Candidate) -> float | None:
    """Predicted error of the network's output with one candidate alone; None where nothing was measured."""
    return math.sqrt(float(objective.squared_errors([pick])[0])) if objective.measured else None


def problem_of(
    layers: Sequence[ConvLayer | Skipped],
    factorizations: Mapping[str, Sequence[RankErrors]],
    options: PlanOptions,
    objective: Objective,
    cost: Cost,
) -> Problem:
    """What `make_plan` chooses from without a rule, so that it can be solved under other budgets.

    Args:
        layers: all convolutions of the model.
        factorizations: by name of the layer.
        options: of the plan.
        objective: what candidates do to the network's output.
        cost: the unit of the budgets.
    """
    selection, workload = select(layers, options), Workload.of(layers)
    maker = _Maker(layers, factorizations, options, objective, cost, selection, workload)
    return maker.problem(maker.decided())


def _requests_of(
    layer: ConvLayer, selection: Selection, options: PlanOptions, workload: Workload
) -> tuple[Request, ...]:
    fixed = layer.name in selection.fixed
    if options.rule in ("amct", "evbmf") and not fixed:
        spatial = scheme("spatial")
        by_reference = options.rule == "amct" and amct_rejection(layer.geometry) is not None
        other = layer.geometry.layer_type != "convolution"
        if (
            by_reference
            or other
            or len(layer.geometry.kernel) != 2
            or spatial.rejection(layer.geometry) is not None
        ):
            return ()
        variant = amct_mode(layer.geometry).variant
        full = spatial.full_rank(layer.geometry, variant)
        largest = (AmctRange.of(layer.geometry).largest_rank,) if options.rule == "amct" else full
        return (Request("spatial", variant, largest),)
    if fixed:
        _check_fixed(layer, selection.fixed[layer.name], options)
    wanted = []
    for name in options.schemes:
        kind = scheme(name)
        if kind.rejection(layer.geometry) is not None:
            continue
        for variant in kind.variants(layer.geometry):
            full = kind.full_rank(layer.geometry, variant)
            given = selection.fixed.get(layer.name)
            ranks = (given or full) if fixed else useful_ranks(layer, name, variant, workload)
            if len(ranks) == len(full) and min(ranks) > 0:
                wanted.append(Request(name, variant, tuple(map(min, ranks, full))))
    return tuple(wanted)


def _check_fixed(layer: ConvLayer, ranks: Size | None, options: PlanOptions) -> None:
    """Reject ranks that no scheme has, before the long work of factorizing.

    Raises:
        PlanError: with what each scheme takes.
    """
    if ranks is None:
        return
    kinds = [kind for kind in map(scheme, options.schemes) if kind.rejection(layer.geometry) is None]
    # Variants differ in how far their ranks go; one that has them is enough.
    fulls = {
        kind.name: [kind.full_rank(layer.geometry, v) for v in kind.variants(layer.geometry)]
        for kind in kinds
    }
    taking = {name: of for name, of in fulls.items() if len(of[0]) == len(ranks)}
    if not taking:
        takes = ", ".join(f"{name} {len(of[0])}" for name, of in fulls.items())
        raise PlanError(
            f"rank: {layer.name}: gets {len(ranks)} rank(s) ({ranks_text(ranks)}), "
            f"but the schemes take: {takes}"
        )
    if not any(
        all(r <= f for r, f in zip(ranks, full, strict=True)) for of in taking.values() for full in of
    ):
        limits = " and ".join(f"1 to {ranks_text(max(of))} of {name}" for name, of in taking.items())
        raise PlanError(f"rank: {layer.name}: rank {ranks_text(ranks)} is outside {limits}")


def _cost_of(options: PlanOptions, objective: Objective, cost: Cost | None, workload: Workload) -> Cost:
    """The unit of the budget; MACs where the budget is none of cost."""
    metric = options.budget.metric if options.budget else None
    if metric == "error" and not objective.measured:
        raise PlanError(
            "a budget of error needs measured sensitivities: "
            "give calibration inputs, or a budget of MACs or params"
        )
    if metric == "accuracy_drop":
        raise PlanError("a budget of accuracy needs a network that runs: it cannot be kept with weights only")
    of_cost = metric not in (None, "error", "energy")
    if cost is not None:
        if of_cost and metric != cost.name:
            raise OptionError(f"a budget of {metric} does not fit costs in {cost.name}")
        return cost
    if options.device is not None and metric != "params":
        return BlockCost(workload, PRESETS[options.device])
    unit = COSTS.get(metric if of_cost and metric else "macs")
    if unit is None:
        raise OptionError(f"a budget of {metric} needs its costs; without any there are {', '.join(COSTS)}")
    return unit.build(workload)


@dataclass(frozen=True, eq=False)
class _Maker:
    """What stays the same during one `make_plan`."""

    layers: Sequence[ConvLayer | Skipped]
    factorizations: Mapping[str, Sequence[RankErrors]]
    options: PlanOptions
    objective: Objective
    cost: Cost
    selection: Selection
    workload: Workload

    def plan(self, sources: Mapping[str, str]) -> Plan:
        picks, notes = self.decided(), list[str]()
        if self.options.rule is None:
            picks |= self._optimum(picks, notes)
        if (
            self.options.budget is None
            and self.options.rule is None
            and not any(map(_decomposes, picks.values()))
        ):
            notes.append("AMCT's rank rule decomposes none of these layers; give a budget to go further")
        choices, skipped = [], []
        for layer in self.layers:
            pick = picks[layer.name]
            if isinstance(pick, Skipped):
                skipped.append(pick)
            elif isinstance(pick, str) and isinstance(layer, ConvLayer):
                skipped.append(left_alone(layer, pick))
            elif isinstance(pick, Candidate) and isinstance(layer, ConvLayer):
                choices.append(self._choice(layer, pick))
        return Plan(tuple(choices), tuple(skipped), self.options, self.workload.unit, sources, tuple(notes))

    def decided(self) -> dict[str, Candidate | Skipped | str]:
        """What options and rule say of each layer; without a rule only of those left alone and fixed."""
        picks: dict[str, Candidate | Skipped | str] = {s.name: s for s in self.selection.skipped}
        chosen_rule = None if self.options.rule is None else RULES.find(self.options.rule)
        for layer in track(self.selection.layers, "choosing ranks"):
            of_layer = self.factorizations.get(layer.name, ())
            if layer.name in self.selection.fixed:
                picks[layer.name] = self._fixed(layer, of_layer, self.selection.fixed[layer.name])
            elif chosen_rule is not None:
                given = RuleInput(layer, of_layer, self.options, self.workload)
                picks[layer.name] = chosen_rule.pick(given)
        return picks

    def _fixed(self, layer: ConvLayer, of_layer: Sequence[RankErrors], ranks: Size | None) -> Candidate:
        """Return the best of the schemes and variants that take these ranks; of equals the cheapest."""
        _check_fixed(layer, ranks, self.options)
        fitting, rejected = [], "it was not factorized"
        for factorization in of_layer:
            full = scheme(factorization.scheme).full_rank(layer.geometry, factorization.variant)
            try:
                fitting.append(candidate_at(layer, factorization, ranks or full, self.workload))
            except PlanError as error:
                rejected = str(error)
        if not fitting:
            raise PlanError(f"rank: {layer.name}: {rejected}")
        # At full rank all errors are rounding; there the price decides.
        return min(fitting, key=lambda c: (c.energy_error if ranks else 0.0, c.macs))

    def problem(self, decided: Mapping[str, Candidate | Skipped | str]) -> Problem:
        """What is left to choose."""
        kept = {name: pick if isinstance(pick, Candidate) else None for name, pick in decided.items()}
        return Problem.pose(
            self.layers,
            self.factorizations,
            kept,
            self.objective,
            self.cost,
            self.workload,
            self.options.multiple,
        )

    def _optimum(
        self, decided: Mapping[str, Candidate | Skipped | str], notes: list[str]
    ) -> dict[str, Candidate | str]:
        """Choose for the layers that are not decided; `notes` tells how good the choice is, if not proven."""
        problem = self.problem(decided)
        budget = self.options.budget
        if budget is not None and budget.metric == "error":
            solution = problem.within_error(budget.value)
        else:
            limit = self._limit(problem.total)
            if budget is None and self.selection.fixed:
                # Nobody asked for a limit; ranks that the user fixes may cost more than AMCT spends.
                limit = max(limit, problem.least)
            if problem.least > limit or (budget is not None and not problem.total):
                raise PlanError(out_of_reach(problem, limit, self.cost, self.options, self.selection.skipped))
            solution = problem.within_cost(limit)
        if not solution.exact:
            gap = (solution.error - solution.bound) / solution.error
            notes.append(
                f"the choice is proven to be within {max(gap, 1e-9):.1e} of the best under the budget"
            )
        return problem.picks(solution, self.options)

    def _limit(self, total: float) -> float:
        """Return the budget as an amount, over all convolutions of the network."""
        budget = self.options.budget
        if budget is None:
            # As a fraction, so that it holds in whatever unit the costs are.
            macs = sum(map(self.workload.layer_macs, self.layers))
            return total * min(self._reference_spend() / macs, 1.0) if macs else total
        if not budget.absolute:
            return budget.value * total
        if budget.metric == "macs" and self.workload.per_position:
            raise PlanError(
                "an amount of MACs needs the input sizes of all layers; give a ratio, such as 0.4"
            )
        return budget.value

    def _reference_spend(self) -> float:
        """MACs of the network if AMCT's rank rule chose for every layer that was selected."""
        spent = sum(self.workload.layer_macs(layer) for layer in self.selection.skipped)
        for layer in track(self.selection.layers, "finding AMCT's ranks"):
            if amct_rejection(layer.geometry) is not None:
                spent += self.workload.layer_macs(layer)
                continue
            rank = (amct_layer_rank(layer, self.factorizations.get(layer.name, ())),)
            chain = scheme("spatial").chain(layer.geometry, amct_mode(layer.geometry).variant, rank)
            spent += self.workload.macs(layer, chain)
        return spent

    def _choice(self, layer: ConvLayer, pick: Candidate) -> Choice:
        notes = ("rank given by the user",) if layer.name in self.selection.fixed else ()
        return Choice.of(
            layer, pick, self.workload, output_error=_alone(self.objective, pick), notes=notes
        )  # fmt: skip


def _decomposes(pick: Candidate | Skipped | str) -> bool:
    return isinstance(pick, Candidate)
