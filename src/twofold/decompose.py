"""From a model to a smaller one: factor, plan, replace, and check what is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from .calibrate import Calibration, CalibrationSource, WeightsOnly, prepare
from .calibration.gather import CalibrationOptions, Statistics
from .calibration.images import ImageOptions
from .calibration.measure import Metric
from .conv import ConvLayer, FactorConv, Factors, LayerStatistics, Skipped
from .errors import ModelError, OptionError, OutputError, PlanError, TwofoldError
from .formats.base import Model
from .lowrank import Factorization, FitOptions, LayerFit, energy_error, scheme
from .lowrank.assemble import checked_weight
from .planning import (
    Budget,
    Choice,
    EqualWeights,
    FixedRanks,
    Objective,
    Plan,
    PlanOptions,
    Request,
    make_plan,
    requests,
)
from .planning.options import left_alone
from .planning.workload import Workload
from .progress import track

M = TypeVar("M", bound=Model)

#: Schemes that compete where inputs tell which is best.
DATA_SCHEMES = ("spatial", "channel")

#: Name of the plan beside a result.
PLAN_FILE = "plan.json"

#: Absolute difference between the predicted and the written energy error that rounding explains: the factors
#: are rounded to the file's precision (half precision keeps 11 bits), the prediction is float64.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Result(Generic[M]):
    """What came out: the smaller model, and the plan that tells how.

    Attributes:
        model: the model with its layers replaced, not written yet.
        plan: what was decided.
        original: the model as it was.
        factors: the stack of every layer that was replaced.
    """

    model: M
    plan: Plan
    original: M
    factors: Mapping[str, Factors]

    def save(
        self, folder: str | Path, *, force: bool = False, keep: str | Path | None = None
    ) -> tuple[Path, ...]:
        """Write the model under its own file names, and `plan.json`, into a folder.

        What was written is read again and compared with the plan before any file takes its final name; all
        files appear together or not at all.

        Args:
            folder: made if it is missing.
            force: exchange files that exist with another content.
            keep: the plan file that was applied; where it is the folder's own `plan.json`, it stays as it is.

        Returns:
            The files.

        Raises:
            OutputError: files exist and `force` is false, the system refuses, or a check fails.
        """
        folder = Path(folder)
        plan = folder / PLAN_FILE
        kept = keep is not None and plan.exists() and plan.samefile(keep)
        extra = {} if kept else {plan: self.plan.to_json().encode()}
        return self.model.save_to(folder, force=force, extra=extra, check=self.check)

    def check(self, written: Model) -> None:
        """Compare a model that was read again with the plan.

        Raises:
            OutputError: a layer is missing, has other ranks, or another error than the plan says.
        """
        layers = {layer.name: layer for layer in written.convolutions() if isinstance(layer, ConvLayer)}
        before = {layer.name: layer for layer in self.original.convolutions() if isinstance(layer, ConvLayer)}
        for choice in track(self.plan.choices, "checking what was written"):
            names = self.model.replaced[choice.layer]
            missing = [name for name in names if name not in layers]
            if missing:
                raise OutputError(f"{choice.layer}: what was written lacks the layer {missing[0]!r}")
            convs = tuple(_conv(layers[name]) for name in names)
            chain = tuple(conv.geometry for conv in convs)
            wanted = scheme(choice.scheme).chain(choice.geometry, choice.variant, choice.ranks)
            if chain != wanted:
                raise OutputError(
                    f"{choice.layer}: what was written has the shapes {chain}, planned {wanted}"
                )
            stack, planned = Factors(choice.scheme, choice.ranks, convs), self.factors[choice.layer]
            if all(map(_same_weight, convs, planned.convs)):
                continue
            found = energy_error(before[choice.layer], stack)
            expected = energy_error(before[choice.layer], planned)
            if abs(found - expected) > ROUNDING * max(1.0, expected):
                raise OutputError(
                    f"{choice.layer}: what was written loses {found:.3e} of the weight's energy, "
                    f"planned {expected:.3e}"
                )


def _same_weight(one: FactorConv, other: FactorConv) -> bool:
    return np.array_equal(one.weight, other.weight)


def _conv(layer: ConvLayer) -> FactorConv:
    if layer.weight is None:
        raise OutputError(f"{layer.name}: what was written has no weights")
    return FactorConv(layer.geometry, layer.weight, layer.bias)


def decompose(
    model: M,
    *,
    macs: float | None = None,
    params: float | None = None,
    error: float | None = None,
    energy: float | None = None,
    rule: str | None = None,
    multiple: int = 16,
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
    statistics: str | Path | None = None,
    calibration: CalibrationOptions | None = None,
    refine: int = 0,
) -> Result[M]:
    """Replace large convolutions by stacks of smaller ones.

    Factors are fitted to what the layers see on calibration inputs, and the budget is spread over the layers
    so that the network's outputs change least. Where neither `images` nor `data` are given, pictures are made
    up; where that cannot be done either, the weights alone decide, and the plan's notes say so.

    Without a budget, the MACs that the reference's rule would spend are spent, and never more.

    Args:
        model: what `load` gives.
        macs: MACs after / before, over all convolutions of the network; at most one budget may be given.
        params: weights after / before, over all convolutions.
        error: the cheapest network is sought whose outputs have at most this relative error.
        energy: share of every layer's energy to keep.
        rule: a rule that chooses every rank by itself, as "amct", the reference's own; from the weights alone
            unless inputs are given.
        multiple: ranks are multiples of this, and at least this.
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
        statistics: a file that keeps what layers see, so that the next plan need not look again.
        calibration: how the network is looked at.
        refine: alternations that improve the factors further.

    Returns:
        The smaller model and the plan. Nothing is written before `Result.save`.

    Raises:
        PlanError: a budget out of reach, or names that match no layer.
        OptionError: options out of range or in contradiction.
        ModelError: weights are missing or not finite, or do not fit the definition; the network cannot run.
        InputError: inputs that cannot be used.
        MissingExtraError: inputs are given, and what runs the network is not installed.
    """
    source = CalibrationSource(
        images=images,
        data=data,
        image_options=image_options or ImageOptions(),
        protect=_words(protect),
        metric=metric,
        statistics=None if statistics is None else Path(statistics),
        options=calibration or CalibrationOptions(),
    )
    used = calibrate(model, source, no_data=no_data, rule=rule)
    options = PlanOptions(
        budget=_budget(macs=macs, params=params, error=error, energy=energy),
        rule=rule,
        multiple=multiple,
        schemes=default_schemes(used) if schemes is None else _words(schemes),
        only=_words(only),
        skip=_words(skip),
        ranks=_fixed(ranks or {}),
    )
    return run(model, options, used, FitOptions(refine=refine))


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


def default_schemes(calibration: Calibration | WeightsOnly) -> tuple[str, ...]:
    """The schemes that compete where the user names none."""
    return DATA_SCHEMES if isinstance(calibration, Calibration) else ("spatial",)


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
) -> Result[M]:
    """Decompose a model as `options` say; see `decompose`.

    Args:
        model: the model.
        options: of the plan.
        calibration: what layers see and outputs feel.
        fit: of the factors.
    """
    layers = model.convolutions()
    if not layers:
        raise ModelError("the net has no convolutions, so there is nothing to decompose")
    notes = calibration.notes
    known = calibration if isinstance(calibration, Calibration) else None
    if known is not None:
        layers = _reached(layers, known)
    wanted = requests(layers, options)
    chosen = [layer for layer in layers if isinstance(layer, ConvLayer) and layer.name in wanted]
    for layer in chosen:
        checked_weight(layer)  # before the long work
    seen = known.statistics(chosen) if known is not None and chosen else Statistics({}, {})
    factored = _factorize(chosen, wanted, fit or FitOptions(), known, seen.take_layers())
    objective: Objective = EqualWeights()
    if known is not None and chosen:
        objective = known.sensitivity(chosen, factored, Workload.of(layers), options.multiple)
    plan = make_plan(layers, factored, options, objective=objective, sources=model.sources())
    factors = {choice.layer: _chosen(factored, choice).factors(choice.ranks) for choice in plan.choices}
    if known is not None and chosen:
        error = known.error([(layer, factors[layer.name]) for layer in chosen if layer.name in factors])
        plan = replace(plan, calibration=dict(seen.record), measured_error=error)
        notes = (*notes, *seen.notes)
    smaller = model.replace(factors)
    plan = replace(plan.named(smaller.replaced), notes=(*plan.notes, *notes))
    return Result(smaller, plan, model, factors)


def _reached(
    layers: Sequence[ConvLayer | Skipped], calibration: Calibration
) -> tuple[ConvLayer | Skipped, ...]:
    """The layers; those that nothing protected depends on as `Skipped`, since nothing tells their effect."""
    found = calibration.runner.reached([layer for layer in layers if isinstance(layer, ConvLayer)])
    names = {layer.name for layer in found}
    why = f"no protected output ({', '.join(calibration.runner.outputs)}) depends on it"
    return tuple(
        left_alone(layer, why) if isinstance(layer, ConvLayer) and layer.name not in names else layer
        for layer in layers
    )


Factored = Mapping[str, Sequence[Factorization]]


def _chosen(factored: Factored, choice: Choice) -> Factorization:
    kind = (choice.scheme, choice.variant)
    return next(one for one in factored[choice.layer] if (one.scheme, one.variant) == kind)


def _factorize(
    layers: Sequence[ConvLayer], wanted: Mapping[str, Sequence[Request]], fit: FitOptions,
    calibration: Calibration | None, seen: dict[str, LayerStatistics],
) -> Factored:  # fmt: skip
    """Factorize layers; their statistics are taken out of `seen` as they are used, since they are large."""
    second_pass = None if calibration is None else calibration.second_pass
    factored = {}
    for layer in track(layers, "factoring layers"):
        fitted = LayerFit(layer, seen.pop(layer.name, None), fit, second_pass)
        factored[layer.name] = [
            fitted.factorize(request.scheme, request.variant, request.max_ranks)
            for request in wanted[layer.name]
        ]
    return factored


def apply_plan(plan: Plan, model: M, fitted: Model | None = None) -> Result[M]:
    """Carry out a plan: on the model that it was made for, or on its training twin.

    Args:
        plan: from `decompose`, or read by `Plan.load`, perhaps edited.
        model: a model with the same convolutions.
        fitted: the decomposed model that came with the plan. Needed where factors were fitted to inputs,
            which are no longer there: they are taken from it.

    Raises:
        PlanError: the plan does not fit the model; all layers that do not, each with its remedy.
    """
    layers = model.convolutions()
    plan = plan.check(layers)
    factors = _from_weights(plan, layers) if plan.calibration is None else _fitted(plan, fitted)
    smaller = model.replace(factors)
    return Result(smaller, plan.named(smaller.replaced), model, factors)


def _from_weights(plan: Plan, layers: Sequence[ConvLayer | Skipped]) -> dict[str, Factors]:
    by_name = {layer.name: layer for layer in layers if isinstance(layer, ConvLayer)}
    asked = _asked_ranks(layers, plan)
    factors = {}
    for choice in track(plan.choices, "factoring layers"):
        ranks = asked.get((choice.layer, choice.scheme, choice.variant), choice.ranks)
        factorization = LayerFit(by_name[choice.layer]).factorize(
            choice.scheme, choice.variant, tuple(map(max, ranks, choice.ranks))
        )
        factors[choice.layer] = factorization.factors(choice.ranks)
    return factors


def _fitted(plan: Plan, fitted: Model | None) -> dict[str, Factors]:
    """The stacks of a plan, from the model that they were written to."""
    if fitted is None:
        raise PlanError(
            "the plan's factors were fitted to inputs: give the decomposed model that was written with it, "
            "or decompose this model anew"
        )
    there = {layer.name: layer for layer in fitted.convolutions() if isinstance(layer, ConvLayer)}
    factors = {}
    for choice in plan.choices:
        if not choice.becomes:
            raise PlanError(
                f"{choice.layer}: its scheme or ranks were edited, and factors for {choice.label} have not "
                "been fitted to inputs; decompose the original again and fix the rank there (--rank)"
            )
        found = [there.get(name) for name in choice.becomes]
        convs = tuple(
            FactorConv(layer.geometry, layer.weight, layer.bias)
            for layer in found
            if layer is not None and layer.weight is not None
        )
        wanted = scheme(choice.scheme).chain(choice.geometry, choice.variant, choice.ranks)
        stack = Factors(choice.scheme, choice.ranks, convs)
        if stack.chain != wanted:
            raise PlanError(
                f"{choice.layer}: the decomposed model does not hold its factors "
                f"{', '.join(choice.becomes)}; give the model that was written with the plan"
            )
        factors[choice.layer] = stack
    return factors


def _asked_ranks(
    layers: Sequence[ConvLayer | Skipped], plan: Plan
) -> dict[tuple[str, str, str], tuple[int, ...]]:
    """The largest ranks that the plan's making asked for, by layer, scheme and variant.

    The factors of a large layer depend on them in the last digits, and a plan should give its bytes again.
    """
    try:
        wanted = requests(layers, plan.options)
    except TwofoldError:  # the model lacks a layer that the options name
        return {}
    return {(name, one.scheme, one.variant): one.max_ranks for name, of in wanted.items() for one in of}
