"""Making a plan: from layers, their factorizations and options to one choice over the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twofold.conv import ConvLayer, Size, Skipped
from twofold.errors import OptionError, PlanError
from twofold.lowrank.schemes import Factorization, scheme
from twofold.planning.amct import amct_mode, amct_refusal
from twofold.planning.budget import COSTS, Cost
from twofold.planning.candidates import Candidate, candidate_at, candidates, useful_ranks
from twofold.planning.objective import EqualWeights, Objective
from twofold.planning.options import PlanOptions, Selection, left_alone, select
from twofold.planning.plan import Choice, Plan
from twofold.planning.rules import RuleInput, amct_layer_rank, no_candidate_reason, rule
from twofold.planning.solve import solve
from twofold.planning.workload import Workload

Vector = NDArray[np.float64]

UNCHANGED = "unchanged is its best use of the budget"


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
    factorizations: Mapping[str, Sequence[Factorization]],
    options: PlanOptions = PlanOptions(),  # noqa: B008 - a frozen value
    *,
    objective: Objective = EqualWeights(),  # noqa: B008 - a frozen value
    cost: Cost | None = None,
    spectra: Mapping[str, Vector] | None = None,
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
        spectra: singular values of weights by layer name, unfolded along the reference's axes, where they are
            already known; others are computed if the reference's rule needs them.
        sources: sha256 of the model's files by file name, to be kept in the plan.

    Returns:
        The plan.

    Raises:
        PlanError: the budget is out of reach (by how much, and what would do); patterns that match nothing;
        fixed
            ranks that do not exist.
        OptionError: options that contradict each other.
    """
    maker = _Maker.of(layers, factorizations, options, objective, cost, spectra or {})
    return maker.plan(sources or {})


def _requests_of(
    layer: ConvLayer, selection: Selection, options: PlanOptions, workload: Workload
) -> tuple[Request, ...]:
    fixed = layer.name in selection.fixed
    if options.rule in ("amct", "evbmf") and not fixed:
        if len(layer.geometry.kernel) != 2 or (
            options.rule == "amct" and amct_refusal(layer.geometry) is not None
        ):
            return ()
        variant = amct_mode(layer.geometry).variant
        return (Request("spatial", variant, scheme("spatial").full_rank(layer.geometry, variant)),)
    wanted = []
    for name in options.schemes:
        kind = scheme(name)
        if kind.refusal(layer.geometry) is not None:
            continue
        for variant in kind.variants(layer.geometry):
            full = kind.full_rank(layer.geometry, variant)
            given = selection.fixed.get(layer.name)
            ranks = (given or full) if fixed else useful_ranks(layer, name, variant, workload)
            if len(ranks) == len(full) and min(ranks) > 0:
                wanted.append(Request(name, variant, tuple(map(min, ranks, full))))
    return tuple(wanted)


@dataclass(frozen=True, eq=False)
class _Maker:
    """The state of one `make_plan`."""

    layers: Sequence[ConvLayer | Skipped]
    factorizations: Mapping[str, Sequence[Factorization]]
    options: PlanOptions
    objective: Objective
    cost: Cost
    spectra: Mapping[str, Vector]
    selection: Selection
    workload: Workload

    @classmethod
    def of(
        cls, layers: Sequence[ConvLayer | Skipped], factorizations: Mapping[str, Sequence[Factorization]],
        options: PlanOptions, objective: Objective, cost: Cost | None, spectra: Mapping[str, Vector],
    ) -> _Maker:  # fmt: skip
        workload = Workload.of(layers)
        kind = options.budget.kind if options.budget else "macs"
        if kind == "error" and not objective.measured:
            raise PlanError(
                "a budget of error needs measured sensitivities: give calibration inputs, or a budget of MACs or params"
            )
        if cost is None:
            unit = COSTS.get("macs" if kind in ("error", "energy") else kind)
            if unit is None:
                raise OptionError(
                    f"a budget of {kind} needs its costs; without any there are {', '.join(COSTS)}"
                )
            cost = unit.build(workload)
        elif kind not in (cost.name, "error", "energy") and options.budget is not None:
            raise OptionError(f"a budget of {kind} does not fit costs in {cost.name}")
        return cls(
            layers, factorizations, options, objective, cost, spectra, select(layers, options), workload
        )

    def plan(self, sources: Mapping[str, str]) -> Plan:
        picks: dict[str, Candidate | str] = {}
        free: list[ConvLayer] = []
        for layer in self.selection.layers:
            if layer.name in self.selection.fixed:
                picks[layer.name] = self._fixed(layer, self.selection.fixed[layer.name])
            elif self.options.rule is not None:
                picks[layer.name] = rule(self.options.rule).pick(self._rule_input(layer))
            else:
                free.append(layer)
        notes: list[str] = []
        if free:
            kept = {name: pick for name, pick in picks.items() if isinstance(pick, Candidate)}
            picks |= self._optimum(free, kept, notes)
        return self._assemble(picks, notes, sources)

    def _rule_input(self, layer: ConvLayer) -> RuleInput:
        of_layer = self.factorizations.get(layer.name, ())
        return RuleInput(layer, of_layer, self.options, self.workload, self.spectra)

    def _fixed(self, layer: ConvLayer, ranks: Size | None) -> Candidate:
        """Return the best among the schemes and variants that take these ranks; between equals the cheapest."""
        fitting = []
        refused: list[str] = []
        for factorization in self.factorizations.get(layer.name, ()):
            full = scheme(factorization.scheme).full_rank(layer.geometry, factorization.variant)
            wanted = full if ranks is None else ranks
            try:
                fitting.append(candidate_at(layer, factorization, wanted, self.workload))
            except PlanError as error:
                refused.append(str(error))
        if not fitting:
            why = refused[0] if refused else f"{layer.name}: no scheme takes {len(ranks or ())} rank(s)"
            raise PlanError(f"rank: {why}")
        # At full rank all errors are rounding; there the price decides.
        return min(fitting, key=lambda c: (0.0 if ranks is None else c.energy_error, c.macs))

    def _optimum(
        self, free: Sequence[ConvLayer], kept: Mapping[str, Candidate], notes: list[str]
    ) -> dict[str, Candidate | str]:
        """Choose over the layers that neither rule nor user has fixed."""
        offers = [self._offers(layer) for layer in free]
        unchanged = [self.cost.of_layer(layer) for layer in free]
        costs = [
            np.array([own, *(self.cost.of_candidate(layer, c) for c in offer)], np.float64)
            for layer, own, offer in zip(free, unchanged, offers, strict=True)
        ]
        errors = [np.concatenate(([0.0], self.objective.squared_errors(offer))) for offer in offers]
        by_name = {layer.name: layer for layer in self.selection.layers}
        spent = sum(self.cost.of_candidate(by_name[name], c) for name, c in kept.items())
        spent += sum(self.cost.of_layer(layer) for layer in self.selection.skipped)
        if self.options.budget is not None and self.options.budget.kind == "error":
            limit = self.options.budget.value**2 - sum(
                float(self.objective.squared_errors([c])[0]) for c in kept.values()
            )
            if limit < 0:
                raise PlanError(
                    f"the ranks given already lead to a predicted output error of "
                    f"{math.sqrt(self.options.budget.value**2 - limit):.4g}, above {self.options.budget.value:g}"
                )
            solution = solve(errors, costs, limit)
        else:
            limit = self._limit() - spent
            least = sum(float(c.min()) for c in costs)
            if least > limit:
                raise PlanError(self._out_of_reach(limit + spent, least + spent, spent))
            solution = solve(costs, errors, limit)
        if not solution.exact:
            gap = (solution.error - solution.bound) / solution.error
            notes.append(f"the choice is within {max(gap, 1e-9):.1e} of the best possible under the budget")
        picks: dict[str, Candidate | str] = {}
        for layer, offer, index in zip(free, offers, solution.picks, strict=True):
            stays = UNCHANGED if offer else no_candidate_reason(self.options)
            picks[layer.name] = offer[index - 1] if index else stays
        return picks

    def _offers(self, layer: ConvLayer) -> tuple[Candidate, ...]:
        """List the candidates that are also cheaper in the budget's own unit."""
        own = self.cost.of_layer(layer)
        offered = candidates(
            layer, self.factorizations.get(layer.name, ()), self.workload, self.options.multiple
        )
        return tuple(c for c in offered if self.cost.of_candidate(layer, c) < own)

    def _total(self) -> float:
        return sum(self.cost.of_layer(layer) for layer in self.layers)

    def _limit(self) -> float:
        """Return the budget as an amount, over all convolutions of the network."""
        budget = self.options.budget
        if budget is None:
            return min(self._reference_spend(), self._total())
        return budget.value if budget.absolute else budget.value * self._total()

    def _reference_spend(self) -> float:
        """MACs of the network if the reference's rule chose for every layer that was selected."""
        spent = sum(self.cost.of_layer(layer) for layer in self.selection.skipped)
        spatial = scheme("spatial")
        for layer in self.selection.layers:
            if amct_refusal(layer.geometry) is not None:
                spent += self.cost.of_layer(layer)
                continue
            variant = amct_mode(layer.geometry).variant
            rank = (amct_layer_rank(layer, self.spectra),)
            spent += self.workload.macs(layer, spatial.chain(layer.geometry, variant, rank))
        return spent

    def _out_of_reach(self, limit: float, least: float, spent: float) -> str:
        total, name = self._total(), self.cost.label
        budget = self.options.budget
        # Rounded up, so that what the message proposes is within reach.
        lowest = math.ceil(least / total * 1e4) / 1e4 if total else 1.0
        asked = f"{limit / total:.4f}" if total else "0"
        words = f"a {name} ratio of {asked} is out of reach: the lowest is {lowest:.4f}"
        if budget is None:
            words = (
                f"the reference's rule would spend a {name} ratio of {asked}, which is "
                + words.split("is ", 1)[1]
            )
        elif budget.absolute:
            words = (
                f"{limit:.6g} {name} are out of reach: the least is {math.ceil(least)} (ratio {lowest:.4f})"
            )
        remedies = [f"ask for a ratio of {lowest:.4f} or more"]
        if self.options.multiple > 1:
            remedies.append(f"a smaller multiple than {self.options.multiple}")
        if self.options.ranks:
            remedies.append("smaller fixed ranks")
        if self.options.only or self.options.skip:
            remedies.append("fewer layers left out")
        others = "more schemes" if len(self.options.schemes) == 1 else ""
        remedies += [others] if others else []
        left = f"; layers that are left alone or fixed hold {spent / total:.4f}" if total and spent else ""
        return f"{words}{left}. What would do: {', '.join(remedies)}"

    def _assemble(
        self, picks: Mapping[str, Candidate | str], notes: list[str], sources: Mapping[str, str]
    ) -> Plan:
        skipped_by_name = {skipped.name: skipped for skipped in self.selection.skipped}
        choices, skipped = [], []
        for layer in self.layers:
            pick = picks.get(layer.name)
            if isinstance(layer, Skipped) or pick is None:
                skipped.append(skipped_by_name[layer.name])
            elif isinstance(pick, str):
                skipped.append(left_alone(layer, pick))
            else:
                choices.append(self._choice(layer, pick))
        if not choices and self.options.budget is None and self.options.rule is None:
            notes.append("the reference's rule decomposes none of these layers; give a budget to go further")
        return Plan(tuple(choices), tuple(skipped), self.options, self.workload.unit, sources, tuple(notes))

    def _choice(self, layer: ConvLayer, pick: Candidate) -> Choice:
        output_error = None
        if self.objective.measured:
            output_error = math.sqrt(float(self.objective.squared_errors([pick])[0]))
        notes = ("rank given by the user",) if layer.name in self.selection.fixed else ()
        return Choice.of(layer, pick, self.workload, output_error=output_error, notes=notes)
