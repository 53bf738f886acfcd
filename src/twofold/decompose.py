"""From a model to a smaller one: factor, plan, replace, and check what is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from .calibrate import Calibration, CalibrationSource, WeightsOnly, prepare
from .calibration.accuracy import Accuracy
from .calibration.gather import CalibrationOptions, Statistics
from .calibration.images import ImageOptions
from .calibration.measure import Metric, quality_warning
from .calibration.runner import Stacks
from .conv import ConvLayer, Factors, Skipped
from .errors import InputError, ModelError, OptionError, PlanError, option
from .factorize import Factored, factorize
from .formats.base import Model
from .formats.modules import with_data
from .latency.choose import stopwatch, time_budget
from .latency.stopwatch import Stopwatch
from .latency.target import plan_by_time
from .lowrank import SCHEMES, FitOptions
from .lowrank.assemble import checked_weight
from .planning import (
    Budget,
    Cost,
    EqualWeights,
    FixedRanks,
    Objective,
    Plan,
    PlanOptions,
    make_plan,
    requests,
)
from .planning.devices import parse_multiple
from .planning.options import DATA_SCHEMES, WEIGHT_SCHEMES, left_alone
from .planning.reach import check_reach
from .planning.text import error_text
from .planning.tradeoff import Outlook
from .planning.workload import Workload
from .progress import track
from .result import Result
from .search import Attempt, within_drop, within_error

M = TypeVar("M", bound=Model)

_log = logging.getLogger(__name__)
#: Inputs that a result keeps, to show them.
SHOWN = 4


def decompose(
    model: M,
    *,
    macs: float | None = None,
    params: float | None = None,
    error: float | None = None,
    accuracy_drop: float | None = None,
    energy: float | None = None,
    speedup: float | None = None,
    latency: float | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    latency_table: str | Path | None = None,
    rule: str | None = None,
    multiple: int | str = 16,
    schemes: str | Sequence[str] | None = None,
    only: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    ranks: Mapping[str, int | tuple[int, ...] | Literal["full"]] | None = None,
    images: str | Path | Iterable[str | Path] | None = None,
    image_options: ImageOptions | None = None,
    data: Any = None,
    no_data: bool = False,
    protect: str | Sequence[str] = (),
    metric: Metric | None = None,
    accuracy: str | Path | Accuracy | None = None,
    statistics: str | Path | None = None,
    calibration: CalibrationOptions | None = None,
    refine: int = 0,
    example_inputs: Any = None,
) -> Result[M]:
    """Replace large convolutions by stacks of smaller ones.

    Factors are fitted to what the layers see on calibration inputs, and the budget is spread over the layers
    so that the network's outputs change least. Where neither `images` nor `data` are given, pictures are made
    up; where that cannot be done either, the weights alone decide, and the plan's notes say so.

    Without a budget, the MACs that the reference's rule would spend are spent, and never more.

    Args:
        model: what `load` gives, or a `torch.nn.Module`, which stays as it is: the result's `model.module`
            is a new one.
        macs: MACs after / before, over all convolutions of the network; at most one budget may be given.
        params: weights after / before, over all convolutions.
        error: the cheapest network is sought whose outputs have at most this relative error.
        accuracy_drop: the cheapest network is sought whose accuracy, a share, drops by at most this.
        energy: share of every layer's energy to keep.
        speedup: how many times faster the network is to run in `runtime`, as measured there.
        latency: the same the other way round: time after / before.
        runtime: what will run the network, such as "onnxruntime". Layers that it does not run faster stay.
        threads: that it may use; None for all cores.
        latency_table: times measured on a device that is not here, instead of a runtime.
        rule: a rule that chooses every rank by itself, as "amct", the reference's own; from the weights alone
            unless inputs are given.
        multiple: ranks are multiples of this, and at least this. The name of a device, as "ascend-fp16", also
            counts MACs as the device does: in whole blocks of channels.
        schemes: names of the schemes that compete; by default "spatial" and "channel", or "spatial"
            alone where the weights decide.
        only: names or patterns of the layers that may be decomposed; empty means all.
        skip: names or patterns of layers to leave alone.
        ranks: layer name or pattern -> its rank (ranks for a scheme with several), or "full".
        images: a folder, pattern, list file or paths of pictures to calibrate on.
        image_options: how pictures become inputs, on top of what the model says.
        data: inputs as they go into the network: a `.npy`/`.npz` file, arrays, or an iterable of them.
        no_data: use the weights alone.
        protect: names of the outputs that must change least; empty for all of the network's.
        metric: what is protected instead: a function of the outputs of all samples, by name, to a number.
        accuracy: for `accuracy_drop`: a folder of labelled pictures, one subfolder per class, or a function
            that measures: it is given `predict`, which takes inputs by name and gives outputs by name.
        statistics: a file that keeps what layers see, so that the next plan need not look again.
        calibration: how the network is looked at.
        refine: alternations that improve the factors further.
        example_inputs: of a module: what its forward gets, a tensor, a tuple of arguments or a dict. They
            tell the sizes of the layers' inputs, and are calibrated on where no pictures can be made up;
            without them the first of `data` is taken, and without both MACs are counted per output position.

    Returns:
        The smaller model and the plan. Nothing is written before `Result.save`.

    Raises:
        PlanError: a budget out of reach, or names that match no layer.
        OptionError: options out of range or in contradiction.
        ModelError: weights are missing or not finite, or do not fit the definition; the network cannot run.
        InputError: inputs that cannot be used.
        MissingExtraError: inputs are given, and what runs the network is not installed.

    Examples:
        >>> model = twofold.load("net.prototxt", "net.caffemodel")
        >>> result = twofold.decompose(model, macs=0.5, images="photos/")
        >>> result.plan.totals.macs_ratio <= 0.5
        True
        >>> [path.name for path in result.save("out/")]
        ['net.prototxt', 'net.caffemodel', 'plan.json']
    """
    (model,), data = with_data((model,), example_inputs, data)
    source = CalibrationSource(
        images=images,
        data=data,
        image_options=image_options or ImageOptions(),
        protect=_words(protect),
        metric=metric,
        accuracy=accuracy,
        statistics=None if statistics is None else Path(statistics),
        options=calibration or CalibrationOptions(),
    )
    budget = _budget(
        macs=macs, params=params, error=error, accuracy_drop=accuracy_drop, energy=energy,
        latency=time_budget(speedup, latency),
    )  # fmt: skip
    watch = stopwatch(budget, runtime_name=runtime, threads=threads, table=latency_table)
    number, device = parse_multiple(multiple)
    options = PlanOptions(
        budget=budget,
        rule=rule,
        multiple=number,
        device=device,
        schemes=first_schemes(watch, no_data=no_data) if schemes is None else _words(schemes),
        only=_words(only),
        skip=_words(skip),
        ranks=_fixed(ranks or {}),
    )
    check_reach(model.convolutions(), options)  # before the long work
    used = calibrate(model, source, no_data=no_data, rule=rule)
    if schemes is None:
        options = replace(options, schemes=default_schemes(used, watch))
    return run(model, options, used, FitOptions(refine=refine), watch)


def calibrate(
    model: Model, source: CalibrationSource, *, no_data: bool = False, rule: str | None = None
) -> Calibration | WeightsOnly:
    """The calibration that `decompose` uses.

    Raises:
        OptionError: inputs are given, and none are wanted.
        InputError: inputs that cannot be used.
        ModelError: the network cannot be run.
        MissingExtraError: what runs it is not installed.
    """
    if no_data and source.asked:
        raise OptionError("no_data: contradicts the inputs, outputs or metric that are given; leave one out")
    if no_data or (rule in ("amct", "evbmf") and not source.asked):
        return WeightsOnly()
    return prepare(model, source)


def first_schemes(watch: Stopwatch | None = None, *, no_data: bool = False) -> tuple[str, ...]:
    """All that `default_schemes` may come to, before it is known whether a calibration is possible."""
    return tuple(SCHEMES) if watch is not None else WEIGHT_SCHEMES if no_data else DATA_SCHEMES


def default_schemes(
    calibration: Calibration | WeightsOnly, watch: Stopwatch | None = None
) -> tuple[str, ...]:
    """The schemes that compete where the user names none: all of them where time tells which is best."""
    if watch is not None:
        return tuple(SCHEMES)
    return DATA_SCHEMES if isinstance(calibration, Calibration) else WEIGHT_SCHEMES


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _fixed(ranks: Mapping[str, int | tuple[int, ...] | Literal["full"]]) -> tuple[FixedRanks, ...]:
    fixed = []
    for pattern, given in ranks.items():
        if given == "full":
            fixed.append(FixedRanks(pattern, None))
            continue
        sizes = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise OptionError(f"ranks: {pattern!r} has {given!r}; give a number, a tuple of them, or 'full'")
        fixed.append(FixedRanks(pattern, sizes))
    return tuple(fixed)


def _budget(**given: float | None) -> Budget | None:
    named = [(kind, value) for kind, value in given.items() if value is not None]
    if len(named) > 1:
        raise PlanError(
            f"one budget can be kept, found {' and '.join(kind for kind, _ in named)}; choose one"
        )
    return Budget(*named[0]) if named else None


def run(
    model: M,
    options: PlanOptions,
    calibration: Calibration | WeightsOnly = WeightsOnly(),  # noqa: B008 - a frozen value
    fit: FitOptions | None = None,
    watch: Stopwatch | None = None,
) -> Result[M]:
    """Decompose a model as `options` say; see `decompose`.

    Args:
        model: the model.
        options: of the plan.
        calibration: what layers see and outputs feel.
        fit: of the factors.
        watch: tells times, for plans that are made by them.
    """
    try:
        return _run(model, options, calibration, fit or FitOptions(), watch)
    except (InputError, ModelError) as error:
        # Made-up pictures that nobody asked for must not stand in the way.
        if not isinstance(calibration, Calibration) or calibration.asked:
            raise
        return _run(model, options, WeightsOnly.because(error), fit or FitOptions(), watch)


def _run(
    model: M,
    options: PlanOptions,
    calibration: Calibration | WeightsOnly,
    fit: FitOptions,
    watch: Stopwatch | None,
) -> Result[M]:
    layers = model.convolutions()
    if not layers:
        raise ModelError("the net has no convolutions, so there is nothing to decompose")
    notes, warnings = calibration.notes, tuple[str, ...]()
    known = calibration if isinstance(calibration, Calibration) else None
    if known is not None:
        layers = _reached(layers, known)
    wanted = requests(layers, options)
    chosen = [layer for layer in layers if isinstance(layer, ConvLayer) and layer.name in wanted]
    for layer in chosen:
        checked_weight(layer)  # before the long work
    seen = known.statistics(chosen) if known is not None and chosen else Statistics({}, {})
    factored = factorize(chosen, wanted, fit, known, seen.take_layers())
    objective: Objective = EqualWeights()
    if known is not None and chosen:
        objective = known.sensitivity(chosen, factored.layers, Workload.of(layers), options.multiple)
    trial = _Trial(model, layers, factored, options, objective, known)
    if watch is None:
        found = trial.search()
    else:
        limit = options.budget.value if options.budget and options.budget.kind == "latency" else None

        def by(prices: Cost) -> Attempt:
            nonlocal trial
            trial = replace(trial, cost=prices)
            return trial.search()

        found = plan_by_time(model, layers, wanted, watch, limit, by)
    plan = found.plan
    if known is not None and chosen:
        found, error, correction = _corrected(known, trial.stacks(found), found)
        record = {
            **seen.record,
            "shrunk": dict(factored.shares),
            "means_corrected": _means_corrected(layers, found.factors),
            "measured": {
                "count": known.held_out.count,
                "held_out": known.apart,
                "outputs": list(known.runner.outputs),
            },
        }
        plan = replace(plan, calibration=record, measured_error=error)
        warnings = _warnings(known, options, error)
        notes = (*warnings, *notes, *seen.notes, *correction)
    smaller = model.replace(found.factors)
    plan = replace(plan.named(smaller.replaced), notes=(*plan.notes, *notes))
    shown = None if known is None else known.sample(SHOWN)
    return Result(smaller, plan, model, found.factors, trial.outlook(plan), shown, warnings)


def _warnings(calibration: Calibration, options: PlanOptions, error: float) -> tuple[str, ...]:
    """What must not be overlooked in what was measured."""
    chosen = options.budget is not None and options.budget.of_loss
    # A metric is in a unit of the user's; and who sets a limit to what may be lost has chosen what is.
    text = None if calibration.metric is not None or chosen else quality_warning(error)
    if text is None:
        return ()
    return (f"{text}; give a larger budget (the report shows the trade-off), or let recover train it",)


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
    calibration: Calibration, stacks: Stacks, attempt: Attempt
) -> tuple[Attempt, float, tuple[str, ...]]:
    """The attempt with its factors corrected in sequence, where that lowers the error; the error; notes."""
    plain = best = calibration.error(stacks)
    factors = attempt.factors
    for tried in calibration.corrected(stacks) if stacks else ():
        error = calibration.error(tried)
        if error < best:
            best, factors = error, {layer.name: stack for layer, stack in tried}
    if best == plain:
        return attempt, plain, ()
    note = f"correction in sequence lowered the output error from {error_text(plain)} to {error_text(best)}"
    return replace(attempt, factors=factors), best, (note,)


@dataclass(frozen=True, eq=False)
class _Trial:
    """Plans for one network under several budgets, measured."""

    model: Model
    layers: Sequence[ConvLayer | Skipped]
    factored: Factored
    options: PlanOptions
    objective: Objective
    calibration: Calibration | None
    cost: Cost | None = None

    def search(self) -> Attempt:
        """The plan; where only the whole network can tell whether it holds, the cheapest that does."""
        budget = self.options.budget
        if self.calibration is None or budget is None:
            return self._plan(self.options)
        if budget.kind == "error":
            return self._kept(within_error(budget.value, partial(self._measured, self._error)))
        if budget.kind == "accuracy_drop":
            before = self.calibration.accuracy_of(())
            measured = partial(self._measured, partial(self._drop, before))
            found = within_drop(budget.value, measured, self.cost.name if self.cost else "macs")
            note = f"accuracy {before:.4f} before, {before - found.loss:.4f} after"
            return self._kept(replace(found, plan=replace(found.plan, notes=(*found.plan.notes, note))))
        return self._plan(self.options)

    def stacks(self, attempt: Attempt) -> list[tuple[ConvLayer, Factors]]:
        """The stacks of a plan, beside their layers."""
        factors = attempt.factors
        return [
            (layer, factors[layer.name])
            for layer in self.layers
            if isinstance(layer, ConvLayer) and layer.name in factors
        ]

    def _plan(self, options: PlanOptions) -> Attempt:
        plan = make_plan(
            self.layers, self.factored.layers, options, objective=self.objective, cost=self.cost,
            sources=self.model.sources(),
        )  # fmt: skip
        factors = {
            choice.layer: self.factored.of(choice).factors(choice.ranks)
            for choice in track(plan.choices, "computing factors")
        }
        return Attempt(plan, factors, 0.0)

    def outlook(self, plan: Plan) -> Outlook | None:
        """What other ranks and budgets would give."""
        try:
            return Outlook.of(
                plan, self.layers, self.factored.layers, self.options, self.objective, self.cost
            )
        except Exception as error:  # a report that shows less must not cost the plan
            _log.warning("the report shows no other budgets: %s: %s", type(error).__name__, error)
            return None

    def _measured(self, loss: Callable[[Attempt], float], budget: Budget) -> Attempt:
        attempt = self._plan(replace(self.options, budget=budget))
        return replace(attempt, loss=loss(attempt))

    def _error(self, attempt: Attempt) -> float:
        assert self.calibration is not None
        return self.calibration.error(self.stacks(attempt)) if attempt.factors else 0.0

    def _drop(self, before: float, attempt: Attempt) -> float:
        assert self.calibration is not None
        return before - self.calibration.accuracy_of(self.stacks(attempt)) if attempt.factors else 0.0

    def _kept(self, attempt: Attempt) -> Attempt:
        """With the budget that the user gave."""
        return replace(attempt, plan=replace(attempt.plan, options=self.options))


def _reached(
    layers: Sequence[ConvLayer | Skipped], calibration: Calibration
) -> tuple[ConvLayer | Skipped, ...]:
    """The layers; those that nothing protected depends on as `Skipped`, since nothing tells their effect.

    Raises:
        ModelError: that is all of them.
    """
    found = calibration.runner.reached([layer for layer in layers if isinstance(layer, ConvLayer)])
    names = {layer.name for layer in found}

    def why(layer: ConvLayer) -> str:
        if layer.inside:
            without = f"without data ({option('no_data=True')}) it is decomposed"
            return f"inside {layer.inside}, where nothing watches it; {without}"
        return f"no protected output ({', '.join(calibration.runner.outputs)}) depends on it"

    others = [layer for layer in layers if isinstance(layer, ConvLayer) and layer.name not in names]
    if others and not found:
        raise ModelError(f"nothing can be fitted to what layers see: {others[0].name}: {why(others[0])}")
    return tuple(
        left_alone(layer, why(layer)) if isinstance(layer, ConvLayer) and layer.name not in names else layer
        for layer in layers
    )
