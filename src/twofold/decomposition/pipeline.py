"""From a model, options and a calibration to a smaller model: factor, plan, replace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from ..calibration.gather import Statistics
from ..calibration.runner import Stacks
from ..conv import ConvLayer, Factors, Size, Skipped
from ..errors import InputError, ModelError, PlanError, option
from ..formats.base import Model
from ..latency.cost import LatencyCost
from ..latency.stopwatch import Stopwatch
from ..lowrank import FitOptions
from ..lowrank.assemble import checked_weight
from ..planning import (
    Budget,
    Cost,
    EqualWeights,
    Objective,
    Plan,
    PlanOptions,
    Request,
    as_fitted,
    make_plan,
    requests,
)
from ..planning.feasible import check_feasible
from ..planning.options import left_alone
from ..planning.tradeoff import ReadErrors, TradeoffCurves
from ..planning.workload import Workload
from ..progress import listened_to, note
from ..text import error_text
from .by_time import plan_by_time, priced
from .cache import RunCache
from .calibrate import Calibration, WeightsOnly
from .estimate import Estimate, layer_work
from .factorize import Factored, factorize
from .result import Result
from .search import PlanTrial, within_drop, within_error
from .statistics import LayerSource
from .tryout import tryout
from .warnings import assumptions, quicker, unmeasured, warnings_of

M = TypeVar("M", bound=Model)

_log = logging.getLogger(__name__)
#: Inputs that a result keeps, to show them.
SHOWN = 4
#: Plans that are made again at most with what short fits at the ranks of the one before told; and with what
#: fits to the end told, where every layer is promised an error, which estimates cannot keep.
_DRAFTED, _PROMISED = 2, 8


def run(
    model: M,
    options: PlanOptions,
    calibration: Calibration | WeightsOnly = WeightsOnly(),  # noqa: B008 - a frozen value
    fit: FitOptions | None = None,
    timer: Stopwatch | None = None,
) -> Result[M]:
    """Decompose a model as options say.

    Args:
        model: the model.
        options: of the plan.
        calibration: inputs and what runs them, or the weights alone.
        fit: of the factors.
        timer: tells times, for plans that are made by them.
    """
    try:
        fit = fit or FitOptions()
        return _run(model, options, _looked(model, options, calibration, timer, fit.refine), fit, timer)
    except PlanError as error:
        stopped = calibration.runner.stopped if isinstance(calibration, Calibration) else ()
        if not stopped:
            raise
        raise PlanError(
            f"{error}. Left alone is what depends on layers that cannot be run: {'; '.join(stopped)}; "
            f"without data ({option('no_data=True')}) it is decomposed, too"
        ) from error


@dataclass(frozen=True, eq=False)
class _Looked:
    """What is known of a network before anything is fitted.

    Attributes:
        layers: all its convolutions.
        wanted: by name of the layer, the schemes and variants that compete.
        chosen: the layers that may be decomposed.
        calibration: what they were looked at by.
        statistics: of their inputs; `factorize` uses them up, since they are large.
        seen: how they were gathered, without them.
        prices: of the layers and of what may replace them, where the plan is made by time.
        cache: results of runs, and which process makes them.
    """

    layers: Sequence[ConvLayer | Skipped]
    wanted: Mapping[str, Sequence[Request]]
    chosen: Sequence[ConvLayer]
    calibration: Calibration | WeightsOnly
    statistics: LayerSource
    seen: Statistics
    prices: LatencyCost | None
    cache: RunCache


def _looked(
    model: Model, options: PlanOptions, calibration: Calibration | WeightsOnly, timer: Stopwatch | None,
    refine: int,
) -> _Looked:  # fmt: skip
    """Gather the statistics of all layers that may be decomposed.

    Synthetic images that nobody asked for must not stand in the way: where layers cannot be looked at with
    them, the weights alone decide.
    """
    layers = model.convolutions()
    if not layers:
        raise ModelError("the net has no convolutions, so there is nothing to decompose")
    known = calibration if isinstance(calibration, Calibration) else None

    def without(error: InputError | ModelError) -> _Looked:
        if known is None or known.asked:
            raise error
        return _looked(model, options, WeightsOnly.because(error), timer, refine)

    try:
        connected = layers if known is None else reached(layers, known)
    except (InputError, ModelError) as error:
        return without(error)
    wanted = requests(connected, options)
    chosen = [layer for layer in connected if isinstance(layer, ConvLayer) and layer.name in wanted]
    for layer in chosen:
        checked_weight(layer)  # before the long work
    check_feasible(connected, options)
    prices = None if timer is None else priced(model, connected, wanted, timer, options)
    try:
        if known is not None and chosen and listened_to() and known.cache.ranks.first:
            less = "" if known.cache.cache is None else "; what the cache has takes no time"
            estimate = Estimate.of(known, chosen, wanted, refine)
            note(f"this takes {estimate}{less}{quicker(estimate, wanted)}")
        cache = RunCache() if known is None else known.cache
        cache.spread({one.name: layer_work(one, wanted[one.name], refine, known) for one in chosen})
        found = known.statistics(chosen) if known is not None and chosen else Statistics({}, {})
    except (InputError, ModelError) as error:
        return without(error)
    seen = replace(found, layers={}, again=None)
    return _Looked(connected, wanted, chosen, calibration, LayerSource.of(found), seen, prices, cache)


def _run(
    model: M, options: PlanOptions, looked: _Looked, fit: FitOptions, timer: Stopwatch | None
) -> Result[M]:
    layers, wanted, chosen, seen = looked.layers, looked.wanted, looked.chosen, looked.seen
    notes, warnings = looked.calibration.notes, assumptions(model, layers)
    known = looked.calibration if isinstance(looked.calibration, Calibration) else None
    factored = factorize(chosen, wanted, fit, known, looked.statistics, looked.cache)
    objective: Objective = EqualWeights()
    if known is not None and chosen:
        objective = known.sensitivity(chosen, factored.layers, Workload.of(layers), options.multiple)
    trial = _Planner(model, layers, factored, options, objective, known)
    if timer is None or looked.prices is None:
        found = trial.search()
    else:
        limit = options.budget.value if options.budget and options.budget.metric == "latency" else None

        def by(prices: Cost) -> PlanTrial:
            nonlocal trial
            trial = replace(trial, cost=prices)
            return trial.search()

        found = plan_by_time(model, layers, wanted, timer, looked.prices, limit, by)
    plan = found.plan
    stacks, curves, shrinkages = (
        trial.stacks(found),
        trial.tradeoff_curves(),
        factored.shrinkages,
    )
    del trial, factored  # as large as the net, or as its statistics; what is left to do takes memory, too
    if known is not None and chosen:
        found, error, correction = _corrected(known, stacks, found)
        assessed = known.assess(model, [(layer, found.factors[layer.name]) for layer, _ in stacks])
        all_held_out = assessed.held_out is None
        error = error if all_held_out else assessed.error
        record = {
            **seen.record,
            "shrunk": dict(shrinkages),
            "means_corrected": _means_corrected(layers, found.factors),
            "measured": {
                "count": assessed.count or known.holdout.count,
                "held_out": known.has_holdout and all_held_out,
                "outputs": list(known.runner.outputs),
                "network": dict(assessed.network),
                **({"metric": True} if known.metric is not None else {}),  # the error is in its unit
            },
        }
        plan = replace(plan, calibration=record, measured_error=error)
        warnings = (
            *warnings,
            *known.inputs.provenance.warnings,
            *warnings_of(known, options, error, assessed),
        )
        notes = (*notes, *seen.notes, *assessed.notes, *correction)
    elif found.factors:
        warnings = (*warnings, unmeasured(plan))
    smaller = model.replace(found.factors)
    tried = tryout(model, smaller) if known is None else tryout(model, smaller, known.runner, known.first())
    warnings = (*warnings, *tried.warnings(changed=bool(found.factors)))
    plan = replace(plan.named(smaller.replaced), notes=(*plan.notes, *warnings, *notes))
    if known is not None:
        known.cache.tell()
    shown = None if known is None else known.sample(SHOWN)
    rank = looked.cache.ranks.rank
    return Result(smaller, plan, model, found.factors, shown, warnings, partial(curves, plan), rank)


def _means_corrected(layers: Sequence[ConvLayer | Skipped], factors: Mapping[str, Factors]) -> list[str]:
    """Layers whose stack has another bias than they have, or one where they have none."""
    biases = {name: stack.convs[-1].bias for name, stack in factors.items()}
    return [
        layer.name
        for layer in layers
        if isinstance(layer, ConvLayer)
        and (bias := biases.get(layer.name)) is not None
        and (layer.bias is None or not np.array_equal(bias, layer.bias))
    ]


def _corrected(
    calibration: Calibration, stacks: Stacks, attempt: PlanTrial
) -> tuple[PlanTrial, float, tuple[str, ...]]:
    """The attempt with its factors corrected in sequence, where that lowers the error; the error; notes."""
    factors, every = attempt.factors, [stacks, *(calibration.corrected(stacks) if stacks else ())]
    plain, *errors = calibration.errors(every)
    best = plain
    for tried, error in zip(every[1:], errors, strict=True):
        if error < best:
            best, factors = error, {layer.name: stack for layer, stack in tried}
    if best == plain:
        return attempt, plain, ()
    note = f"correction in sequence lowered the output error from {error_text(plain)} to {error_text(best)}"
    return replace(attempt, factors=factors), best, (note,)


@dataclass(frozen=True, eq=False)
class _Planner:
    """Plans for one network under several budgets, measured."""

    model: Model
    layers: Sequence[ConvLayer | Skipped]
    factored: Factored
    options: PlanOptions
    objective: Objective
    calibration: Calibration | None
    cost: Cost | None = None

    def search(self) -> PlanTrial:
        """The plan; where only the whole network can tell whether it holds, the cheapest that does."""
        budget = self.options.budget
        if self.calibration is None or budget is None:
            return self._plan(self.options)
        if budget.metric == "error":
            return self._kept(within_error(budget.value, partial(self._measured, self._error)))
        if budget.metric == "accuracy_drop":
            before = self.calibration.accuracy_of(())
            measured = partial(self._measured, partial(self._drop, before))
            found = within_drop(budget.value, measured, self.cost.name if self.cost else "macs")
            note = f"accuracy {before:.4f} before, {before - found.loss:.4f} after"
            return self._kept(replace(found, plan=replace(found.plan, notes=(*found.plan.notes, note))))
        return self._plan(self.options)

    def stacks(self, attempt: PlanTrial) -> list[tuple[ConvLayer, Factors]]:
        """The stacks of a plan, beside their layers."""
        factors = attempt.factors
        return [
            (layer, factors[layer.name])
            for layer in self.layers
            if isinstance(layer, ConvLayer) and layer.name in factors
        ]

    def _plan(self, options: PlanOptions) -> PlanTrial:
        """The plan; made again where fits at its ranks told something that it did not know."""
        plan = self._made(options)
        for _ in range(_DRAFTED):
            if not self.factored.draft(plan.choices):
                break
            plan = self._made(options)
        factors = self.factored.stacks(plan.choices)
        for _ in range(_PROMISED if options.rule == "energy" else 0):
            again = self._made(options)
            if _stacks_of(again) == _stacks_of(plan):
                break
            plan, factors = again, self.factored.stacks(again.choices)
        return PlanTrial(self._with_errors(plan), factors, 0.0)

    def _made(self, options: PlanOptions) -> Plan:
        return make_plan(
            self.layers, self.factored.layers, options, objective=self.objective, cost=self.cost,
            sources=self.model.sources(),
        )  # fmt: skip

    def _with_errors(self, plan: Plan) -> Plan:
        return as_fitted(plan, self.layers, self.factored.layers, self.objective)

    def tradeoff_curves(self) -> Callable[[Plan], TradeoffCurves | None]:
        """What other ranks and budgets than a plan's would give; it holds no factors."""
        errors = {name: [*map(ReadErrors.of, of)] for name, of in self.factored.layers.items()}
        layers, options, objective, cost = self.layers, self.options, self.objective, self.cost

        def read(plan: Plan) -> TradeoffCurves | None:
            try:
                return TradeoffCurves.of(plan, layers, errors, options, objective, cost)
            except Exception as error:  # a report that shows less must not cost the plan
                _log.warning("the report shows no other budgets: %s: %s", type(error).__name__, error)
                return None

        return read

    def _measured(self, loss: Callable[[PlanTrial], float], budget: Budget) -> PlanTrial:
        attempt = self._plan(replace(self.options, budget=budget))
        return replace(attempt, loss=loss(attempt))

    def _error(self, attempt: PlanTrial) -> float:
        assert self.calibration is not None
        return self.calibration.error(self.stacks(attempt)) if attempt.factors else 0.0

    def _drop(self, before: float, attempt: PlanTrial) -> float:
        assert self.calibration is not None
        return before - self.calibration.accuracy_of(self.stacks(attempt)) if attempt.factors else 0.0

    def _kept(self, attempt: PlanTrial) -> PlanTrial:
        """With the budget that the user gave."""
        return replace(attempt, plan=replace(attempt.plan, options=self.options))


def _stacks_of(plan: Plan) -> list[tuple[str, str, str, Size]]:
    """What a plan decides."""
    return [(one.layer, one.scheme, one.variant, one.ranks) for one in plan.choices]


def reached(
    layers: Sequence[ConvLayer | Skipped], calibration: Calibration
) -> tuple[ConvLayer | Skipped, ...]:
    """The layers; those that nothing protected depends on as `Skipped`, since nothing tells their effect.

    Raises:
        ModelError: that is all of them.
    """
    found = calibration.runner.reached([layer for layer in layers if isinstance(layer, ConvLayer)])
    names = {layer.name for layer in found}

    def why(layer: ConvLayer) -> str:
        without = f"without data ({option('no_data=True')}) it is decomposed"
        if layer.inside:
            return f"inside {layer.inside}, where nothing watches it; {without}"
        stopped = "; ".join(calibration.runner.stopped)
        behind = f", since {stopped}; {without}" if stopped else ""
        return f"no protected output ({', '.join(calibration.runner.outputs)}) depends on it{behind}"

    others = [layer for layer in layers if isinstance(layer, ConvLayer) and layer.name not in names]
    if others and not found:
        raise ModelError(f"nothing can be fitted to inputs of layers: {others[0].name}: {why(others[0])}")
    return tuple(
        left_alone(layer, why(layer)) if isinstance(layer, ConvLayer) and layer.name not in names else layer
        for layer in layers
    )
