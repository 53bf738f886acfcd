"""Calibration as one value: the inputs, what runs them, and what plans ask of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..calibration.accuracy import Accuracy, top1
from ..calibration.assess import Assessment, assess
from ..calibration.batches import unmixed
from ..calibration.correction import gather_remainders, samples_needed
from ..calibration.gather import AnotherPass, CalibrationOptions, Statistics, gather, mode, stored_bytes
from ..calibration.inputs import Batch, Inputs, evenly
from ..calibration.measure import Measure, Metric, MetricChange, OutputErrorMetric, number_of
from ..calibration.memory import memory_kept
from ..calibration.runner import Outputs, Runner, Stacks
from ..calibration.runners import reject_varying, runner_for
from ..calibration.shrink import Holdout
from ..calibration.source import CalibrationSource, calibration_inputs, image_preprocessing, is_caffe
from ..calibration.split import ENOUGH, FEW_HOLDOUT, split
from ..calibration.store import load_or_gather
from ..calibration.synthetic import beside
from ..conv import ConvLayer, Factors, FactorStatistics, Skipped
from ..errors import FormatError, InputError, MissingExtraError, ModelError, OptionError, TwofoldError, option
from ..files.cache import Cache
from ..formats.base import is_missing, preflight
from ..lowrank import Factorization, corrected_stack
from ..planning import MeasuredSensitivity
from ..planning.workload import Workload
from ..progress import track
from ..ranks import Ranks
from ..text import error_text
from .cache import RunCache, samples_digest, stacks_digest
from .sensitivity import measure_sensitivity
from .statistics import cached_statistics, content_keys
from .stored import remainders_entry, remainders_of

__all__ = ["Calibration", "WeightsOnly", "prepare"]

#: An error that other samples may show so many times as large, or as small, is no certain one. More than
#: `_ANY` times says that it is not known at all.
_UNCERTAIN, _ANY = 1.5, 10.0
#: Where fewer held-out inputs differ, others may show so many times as much at least: what is largest is
#: rarely among them (open_nsfw: 0.060 by four, within a factor of 1.52 as these say; 0.117 by 48 others).
_TELL_SPREAD, _LEAST_SPREAD = 8, 2.0
#: Errors are told by so many samples at least; some that factors were fitted to fill up the held-out ones.
_TOLD_BY = 24
#: Batch statistics mean something for so many samples at least.
_SMALLEST_STATISTICS_BATCH = 8
#: Values of a batch that go into convolutions and come out of them; they are kept together, with gradients.
_ACTIVATIONS = 120_000_000
#: Samples that correction looks at, more where a layer has few positions in each; what it fits are far fewer
#: numbers than those of a layer's patches.
CORRECTED_BY = 32
#: Bytes of the original network's outputs that are held while others are compared with them.
_HELD = 256 << 20
#: The held-out samples choose among these, and no correction.
CORRECTION_RIDGES = (1e-1, 1e-2, 1e-3)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Inputs and what runs them.

    Attributes:
        runner: runs the model.
        inputs: samples that fits are made from.
        holdout: samples that errors are measured on; the same where there are few.
        sensitivity_inputs: samples that the effects of single layers are measured on.
        fitted: some samples that fits are made from, where few are held out; None where enough are.
        has_holdout: whether fits never see what is held out.
        groups: numbers of samples of what is held out that are alike, see `split`.
        options: how the network is looked at.
        sources: sha256 of the model's files.
        metric: what is protected instead of the relative error of the outputs.
        accuracy: what a budget of accuracy is measured by.
        saved: file of statistics, or None.
        notes: what the user should know.
        asked: whether the user asked for a calibration; one that nobody asked for may fail.
        cache: results of earlier runs.
    """

    runner: Runner
    inputs: Inputs
    holdout: Inputs
    sensitivity_inputs: Inputs
    fitted: Inputs | None
    has_holdout: bool
    groups: tuple[int, ...]
    options: CalibrationOptions
    sources: Mapping[str, str]
    metric: Metric | None = None
    accuracy: Accuracy | None = None
    saved: Path | None = None
    notes: tuple[str, ...] = ()
    asked: bool = True
    cache: RunCache = field(default_factory=RunCache)

    @classmethod
    def prepare(cls, model: Any, source: CalibrationSource, cache: Cache | None = None) -> Calibration:
        """Read or make the inputs of a model.

        Args:
            model: the model.
            source: its inputs.
            cache: results of earlier runs; None for none.

        Raises:
            MissingExtraError: the runtime that runs the model is not installed.
            ModelError: the model cannot be run.
            InputError: no inputs can be read or made.
            OutputError: there is no file of statistics yet, and none can be written.
        """
        if source.statistics is not None and is_missing(source.statistics):
            preflight([source.statistics])
        unfit: str = getattr(model, "unfit", "")
        if unfit:
            raise ModelError(unfit)
        runner = runner_for(model, source.targets)
        reject_varying(runner)
        inputs = calibration_inputs(runner, source)
        inputs = inputs.batched(min(inputs.batch, max(_ACTIVATIONS // activations(model.convolutions()), 1)))
        synthetic = inputs.provenance.source_type == "synthetic"
        options = source.options
        if options.batch_statistics is None:
            unsure = inputs.provenance.assumed or is_caffe(runner)
            options = replace(options, batch_statistics=synthetic and unsure)
        options = replace(options, batch_statistics=options.batch_statistics and runner.has_batch_statistics)
        if options.batch_statistics and inputs.largest == 1:
            options = replace(options, batch_statistics=False)
            inputs = inputs.noted("batch normalisations use their stored statistics: a batch of one has none")
        if options.batch_statistics:
            inputs = inputs.batched(max(inputs.batch, _SMALLEST_STATISTICS_BATCH))
        parts = split(inputs)
        fitted, holdout = parts.fitted, parts.holdout
        has_holdout = fitted.count < inputs.count
        more = min(_TOLD_BY - holdout.count, fitted.count) if has_holdout and not synthetic else 0
        few = fitted.take(evenly(more, fitted.count)) if more > 0 else None
        sensitivity_inputs = holdout
        if not synthetic:
            fitted, sensitivity_inputs = _filled_up(fitted, holdout, source)
        return cls(
            runner, fitted, holdout, sensitivity_inputs, few, has_holdout, parts.groups, options,
            model.sources(), source.metric, _accuracy(runner, source), source.statistics,
            fitted.provenance.notes, source.asked, RunCache.of(cache, model, runner, fitted, options),
        )  # fmt: skip

    def first(self) -> Batch:
        """The first of the held-out samples."""
        return next(iter(self.holdout.take(slice(0, 1))))

    def sample(self, count: int) -> Calibration:
        """The same with a few held-out samples alone, for this process by itself."""
        few = self.holdout.take(slice(0, max(count, self.holdout.batch)))
        cache = replace(self.cache, ranks=Ranks())
        return replace(self, inputs=few, holdout=few, groups=(1,) * few.count, cache=cache)

    @memory_kept()
    def assess(self, model: Any, stacks: Stacks) -> Assessment:
        """How certain the error with stacks in it is, and what the model's own outputs lose.

        Samples that factors were fitted to show less than others. Where they show clearly more, those that
        were held out are too few or too easy, and the error is that of both.
        """
        if not stacks or self.metric is not None:
            return Assessment()
        tasks = [partial(self._assess_holdout, model, stacks)]
        if self.fitted is not None:
            tasks.append(partial(assess, self.runner, self.runner.outputs, self.fitted, stacks))
        found, *more = self.cache.ranks.each("the last look", tasks)
        if not more:
            return found
        (fitted,) = more
        return found.with_fitted(fitted) if fitted.error > _UNCERTAIN * found.error else found

    def _assess_holdout(self, model: Any, stacks: Stacks) -> Assessment:
        protected = self.runner.outputs
        ends = [
            name for name in self.runner.network_outputs if name not in {*protected, *self.runner.varying}
        ]
        if ends:
            try:
                runner = runner_for(model, (*protected, *ends))
                return assess(runner, protected, unmixed(runner, self.holdout), stacks, self.groups)
            except (InputError, ModelError) as error:  # accuracies and losses need labels, which inputs lack
                note = f"errors of {', '.join(ends)} were not measured: {error}"
                return replace(
                    assess(self.runner, protected, self.holdout, stacks, self.groups), notes=(note,)
                )
        return assess(self.runner, protected, self.holdout, stacks, self.groups)

    def doubt(self, error: float, assessed: Assessment) -> str | None:
        """What a user should be told of a measured error that is no certain one; None where it is.

        Args:
            error: of the outputs.
            assessed: how certain it is.
        """
        count = assessed.count or self.holdout.count
        measured = f"the error of the outputs was measured on {count} input{'s' * (count != 1)}"
        if self.inputs.provenance.source_type == "synthetic":
            return f"{measured} that are synthetic: yours may show half or twice as much; give some of them"
        if not self.has_holdout:
            found = f"{measured} that factors were fitted to, too, so that it is too small for others"
        elif len(self.groups) < FEW_HOLDOUT and assessed.held_out is None:
            kinds = f"{len(self.groups)} kinds" if len(self.groups) > 1 else "one kind"
            alike = max(self.groups) > 1
            found = (
                f"{measured}{f' of {kinds}' if alike else ''} alone, so that others may show twice as much"
            )
            if alike:
                return f"{found}; give inputs of more kinds"
        else:
            factor, above = min(assessed.factor, _ANY), 1.0
            if assessed.held_out is not None:
                factor = max(factor, _UNCERTAIN)
                above = _UNCERTAIN  # what factors were fitted to shows less than others
                measured += (
                    f", since the {self.holdout.count} that no factor was fitted to show only "
                    f"{error_text(assessed.held_out)} and are easier than the others; it is of inputs"
                )
            elif factor <= _UNCERTAIN:
                return None
            if len(self.groups) < _TELL_SPREAD:
                factor = max(factor, _LEAST_SPREAD)
            more = max(2, math.ceil((math.log(factor) / math.log(_UNCERTAIN)) ** 2))
            return (
                f"{measured} that differ in it: others may show {error_text(error / factor)} to "
                f"{error_text(error * factor * above)}; give {more} times as many inputs, or measure it on "
                f"others: {option('twofold.compare', 'compare')}"
            )
        return f"{found}; give {ENOUGH} inputs or more"

    def measure(self) -> Measure:
        """A fresh measure of what is protected."""
        return OutputErrorMetric() if self.metric is None else MetricChange(self.metric)

    @memory_kept()
    def statistics(self, layers: Sequence[ConvLayer]) -> Statistics:
        """The input statistics of layers: gathered, or read from the file or the cache that keeps them."""
        if self.saved is None:
            return cached_statistics(self.cache, self.runner, layers, self.inputs, self.options)

        def look(missing: Sequence[ConvLayer]) -> Statistics:
            return gather(self.runner, missing, self.inputs, self.options)

        size = stored_bytes(layers, self.options)
        load = partial(load_or_gather, self.saved, layers, look, self.sources, self.inputs.digest(), size)
        # One file: the first process makes it, and the others read it.
        found = self.cache.ranks.from_first("the statistics' file", load)
        return replace(found, keys=content_keys(self.cache, found.layers))

    @memory_kept()
    def holdout_patches(self, layers: Sequence[ConvLayer]) -> dict[str, Holdout]:
        """What layers see in samples that no fit has seen; nothing where there are no such samples."""
        if not self.has_holdout:
            return {}
        with mode(self.runner, self.options):
            return Holdout.gather(self.runner, layers, self.holdout, self.options.seed)

    @property
    def second_pass(self) -> AnotherPass:
        """Another pass over the inputs, for layers over the memory limit."""
        return AnotherPass(self.runner, self.inputs, self.options)

    @memory_kept()
    def sensitivity(
        self, layers: Sequence[ConvLayer], factorizations: Mapping[str, Sequence[Factorization]],
        workload: Workload, multiple: int,
    ) -> MeasuredSensitivity:  # fmt: skip
        """What candidates of each layer do to the outputs."""
        return measure_sensitivity(
            self.runner, self.runner.reached(layers), factorizations, self.sensitivity_inputs, self.options,
            workload=workload, multiple=multiple, new_measure=self.measure, cache=self.cache,
        )  # fmt: skip

    def error(self, stacks: Stacks) -> float:
        """Error of the network's outputs with stacks in the place of layers, on the held-out samples.

        It is that of the network as it will run, whatever statistics it was looked at under.
        """
        return self.errors([stacks])[0]

    @memory_kept()
    def errors(self, many: Sequence[Stacks]) -> list[float]:
        """The errors of several networks, see `error`; each measured by one process."""
        original = _Original(self.runner)
        tasks = [partial(self._error, one, original) for one in many]
        return self.cache.ranks.each("errors of the outputs", tasks)

    def _error(self, stacks: Stacks, original: _Original) -> float:
        key = self.cache.key("error", samples_digest(self.holdout), stacks_digest(stacks))
        known = self.cache.number("error", key) if self.metric is None else None
        if known is not None:
            return known
        measure = self.measure()
        for index, batch in enumerate(track(self.holdout, "measuring the error of the outputs")):
            measure.add("", original.outputs(index, batch), self.runner.run(batch, stacks))
        error = measure.error("")
        if self.metric is None:
            self.cache.put("error", key, {"value": error})
        return error

    def corrected(self, stacks: Stacks) -> Iterator[list[tuple[ConvLayer, Factors]]]:
        """Stacks whose last factors are refitted to what layers before have changed, by each ridge."""
        seen = self._remainders(stacks)
        for ridge in CORRECTION_RIDGES:
            yield [
                (
                    layer,
                    corrected_stack(layer, stack, seen[layer.name], ridge) if layer.name in seen else stack,
                )
                for layer, stack in stacks
            ]

    @memory_kept()
    def _remainders(self, stacks: Stacks) -> dict[str, FactorStatistics]:
        cache, ranks = self.cache, self.cache.ranks
        key = cache.key("remainders", samples_digest(self.inputs), stacks_digest(stacks))
        entry = cache.from_first("remainders", key)
        if entry is not None:
            with suppress(FormatError):
                return remainders_of(entry)
        own = {layer.name for layer, _ in stacks if cache.owns(layer.name)}
        wanted = max(CORRECTED_BY, samples_needed(stacks, self.options))
        few = self.inputs.take(evenly(min(wanted, self.inputs.count), self.inputs.count))
        parts = ranks.collect(
            "remainders", lambda: gather_remainders(self.runner, stacks, few, self.options, own)
        )
        every = {name: one for part in parts for name, one in part.items()}
        seen = {layer.name: every[layer.name] for layer, _ in stacks if layer.name in every}
        entry = remainders_entry(seen)
        cache.put_by_first("remainders", key, entry.header, entry.arrays)
        return seen

    @memory_kept()
    def accuracy_of(self, stacks: Stacks) -> float:
        """Accuracy with stacks in the place of layers.

        Raises:
            OptionError: nothing was given to measure it by.
        """
        if self.accuracy is None:
            raise OptionError("a budget of accuracy needs labelled images, or a function that measures it")
        measured = partial(
            number_of, "the accuracy", self.accuracy, lambda batch: self.runner.run(batch, stacks)
        )
        return self.cache.ranks.from_first("the accuracy", measured)


@dataclass(frozen=True)
class WeightsOnly:
    """No calibration.

    Attributes:
        notes: why, where somebody might have expected one.
    """

    notes: tuple[str, ...] = ()

    @classmethod
    def because(cls, error: TwofoldError) -> WeightsOnly:
        """What stood in the way."""
        return cls((f"weights only, since no calibration is possible: {error}",))


class _Original:
    """What the original network gives, run once for several that are compared with it."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self._outputs, self._bytes = runner, dict[int, Outputs](), 0

    def outputs(self, index: int, batch: Batch) -> Outputs:
        """Its outputs for a batch, of so large an index in its order."""
        found = self._outputs.get(index)
        if found is None:
            found = self._runner.run(batch)
            self._bytes += sum(one.nbytes for one in found.values())
            if self._bytes <= _HELD:
                self._outputs[index] = found
        return found


def prepare(model: Any, source: CalibrationSource, cache: Cache | None = None) -> Calibration | WeightsOnly:
    """Calibration of a model; weights only where nobody asked for one and none is possible."""
    try:
        return Calibration.prepare(model, source, cache)
    except (MissingExtraError, ModelError, InputError) as error:
        if source.asked:
            raise
        return WeightsOnly.because(error)


def activations(layers: Iterable[ConvLayer | Skipped]) -> int:
    """Values of a sample that go into layers and come out of them, as far as sizes are known; 1 at least."""
    uses = [(one.geometry, size) for one in layers if isinstance(one, ConvLayer) for size in one.input_sizes]
    return max(sum(g.c_in * math.prod(s) + g.c_out * math.prod(g.output_size(s)) for g, s in uses), 1)


def _accuracy(runner: Runner, source: CalibrationSource) -> Accuracy | None:
    if source.accuracy is None or callable(source.accuracy):
        return source.accuracy
    return top1(
        source.accuracy, runner.inputs, image_preprocessing(runner, source, str(source.accuracy))[0].options
    )


def _filled_up(fitted: Inputs, holdout: Inputs, source: CalibrationSource) -> tuple[Inputs, Inputs]:
    """Samples to fit on and to probe with, and the synthetic images beside them that the user asked for.

    Raises:
        InputError: an input is no image.
    """
    if not source.options.synthetic:
        return fitted, holdout
    more = beside(fitted, source.options.synthetic, seed=source.image_options.seed)
    note = f"{more.count} synthetic images are looked at beside yours; errors are measured on yours alone"
    sensitivity_inputs = min(holdout.count, more.count // 2)
    return (
        fitted.and_also(more.take(slice(sensitivity_inputs, None)), note),
        holdout.and_also(more.take(slice(sensitivity_inputs)), note) if sensitivity_inputs else holdout,
    )
