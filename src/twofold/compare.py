"""Two models side by side: what they give for the same inputs, what they cost, how long they take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends import backend_of, with_data
from .calibration.batches import unmixed
from .calibration.detections import (
    BOX_COLUMNS,
    OVERLAP,
    SCORE,
    are_boxes,
    box_lists,
    equal_rows,
    matched,
)  # fmt: skip
from .calibration.inputs import Batch, Inputs
from .calibration.measure import OutputErrorMetric, quality_warning
from .calibration.pixels import ImageSource
from .calibration.runner import Outputs
from .calibration.runners import runner_for
from .calibration.source import CalibrationSource, calibration_inputs
from .device import computing_on
from .errors import ModelError, TwofoldError, without
from .formats.base import Model
from .latency.choose import here
from .latency.nets import form_for
from .latency.runtimes import installed
from .latency.stopwatch import LocalTimer
from .planning.workload import Workload, layer_params
from .progress import track
from .text import aligned, count_text, error_text
from .views import Tabular

#: How times and their ratio are to be read.
TIMES = (
    "times: each the median of its runs; their ratio is the median of after / before, run in turn, "
    "so that it need not be that of the medians; ± half the distance of its quartiles"
)
#: How far the scores of classes may be from a sum of 1.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class OutputComparison:
    """One output of both models.

    Attributes:
        name: its name.
        error: relative error of the second; None for boxes.
        agreement: fraction of samples of which both name the same class; None where the output is no such.
        boxes: boxes of the first, those that the second finds again, and those that only the second finds;
            None where the output is no such.
    """

    name: str
    error: float | None
    agreement: float | None = None
    boxes: tuple[int, int, int] | None = None

    @property
    def agreement_text(self) -> str:
        """The fraction in words; "" where the output names no classes."""
        return "" if self.agreement is None else f"{self.agreement:.4f}"

    @property
    def boxes_text(self) -> str:
        """The boxes in words; "" where the output is no list of them."""
        if self.boxes is None:
            return ""
        first, again, more = self.boxes
        return f"{again} of {first}, {more} more" if first or more else "no boxes to find"


@dataclass(frozen=True)
class TimeComparison:
    """How long both models take in one runtime, run in turn.

    Attributes:
        runtime: what ran them.
        seconds: medians of a run.
        ratio: median of second / first within a round.
        spread: half the distance of its quartiles.
    """

    runtime: str
    seconds: tuple[float, float]
    ratio: float
    spread: float

    @property
    def tells(self) -> bool:
        """Whether the ratio says which is faster: its interval does not hold 1."""
        return abs(self.ratio - 1) > self.spread


@dataclass(frozen=True, repr=False)
class Comparison(Tabular):
    """What a comparison found; pairs are (first, second).

    Attributes:
        outputs: per output.
        samples: number of inputs.
        macs: over all convolutions, per image; 0 where input sizes are not known.
        params: weights of all convolutions.
        times: in every runtime that was asked for and can run them, at the batch that the models declare.
        notes: about the inputs, and runtimes that cannot run them.
        bytes: size of the files; None where they are not known.
    """

    outputs: tuple[OutputComparison, ...]
    samples: int
    macs: tuple[int, int]
    params: tuple[int, int]
    times: tuple[TimeComparison, ...] = ()
    notes: tuple[str, ...] = ()
    bytes: tuple[int, int] | None = None

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("output", "relative error", "same class", "boxes found again")]
        for one in self.outputs:
            error = "" if one.error is None else error_text(one.error)
            rows.append((one.name, error, one.agreement_text, one.boxes_text))
        # Columns for what no output is would be blank.
        shown = [0, 1, *([2] if self.has_classes else []), *([3] if self.has_boxes else [])]
        lines = aligned([tuple(row[column] for column in shown) for row in rows], {1, 2, 3})
        legend = f"; boxes: score {SCORE:g} or more, overlap above {OVERLAP:g}" if self.has_boxes else ""
        lines.append(f"over {self.samples} inputs{legend}")
        costs: list[tuple[str, ...]] = [("", "before", "after", "after / before")]
        costs.append(("MACs of convolutions", *map(_counted, self.macs), _ratio(self.macs)))
        costs.append(("params of convolutions", *map(_counted, self.params), _ratio(self.params)))
        if self.bytes is not None:
            costs.append(("bytes of the files", *map(count_text, self.bytes), _ratio(self.bytes)))
        for time in self.times:
            pair = [f"{1000 * seconds:.1f} ms" for seconds in time.seconds]
            noisy = "" if time.tells else ", too noisy to tell"
            costs.append((f"time in {time.runtime}", *pair, f"{time.ratio:.3f} ± {time.spread:.3f}{noisy}"))
        how = [TIMES] if self.times else []
        return "\n".join([*lines, "", *aligned(costs, {1, 2, 3}), *how, *self.notes])

    @property
    def title(self) -> str:
        """See `Tabular`."""
        ratio = f", {_ratio(self.macs)} of the MACs" if all(self.macs) else ""
        return f"{', '.join(one.name for one in self.outputs)} over {self.samples} inputs{ratio}"

    @property
    def has_classes(self) -> bool:
        """Whether an output names classes."""
        return any(one.agreement is not None for one in self.outputs)

    @property
    def has_boxes(self) -> bool:
        """Whether an output is a list of boxes."""
        return any(one.boxes is not None for one in self.outputs)


@without("no_data", "skip")
def compare(
    first: Any,
    second: Any,
    source: CalibrationSource | None = None,
    *,
    images: ImageSource | Iterable[ImageSource] | None = None,
    image_options: Any = None,
    data: Any = None,
    example_inputs: Any = None,
    runtimes: Sequence[str] | None = None,
    threads: int | None = None,
    device: str | None = None,
    on_batch: Callable[[Batch, Outputs, Outputs], None] | None = None,
) -> Comparison:
    """Run two models on the same inputs, and time them in the runtimes that are installed.

    Args:
        first: the original: what `load` gives, or a `torch.nn.Module`.
        second: what became of it, of the same inputs and outputs: such a model, or what `decompose` or
            `recover` gives.
        source: the inputs, as one value; synthetic images where it names none.
        images: the inputs, as in `decompose`, instead of a source.
        image_options: as in `decompose`.
        data: the inputs, as in `decompose`, instead of a source.
        example_inputs: of modules, as in `decompose`.
        runtimes: names of those that the models are timed in; none of them for no times, and by default all
            that are installed and run such models.
        threads: of the runtimes; None for all cores.
        device: where outputs are computed, as in `decompose`; times are taken in the runtimes.
        on_batch: is shown every batch with the outputs of both, to keep what it wants.

    Raises:
        ModelError: the models differ in their inputs or outputs, or cannot be run.
        InputError: no inputs can be read or made.
        OptionError: a runtime or a device is unknown or not there, or threads are out of range.
        MissingExtraError: a runtime that is named is not installed.

    Examples:
        >>> model = twofold.load("net.prototxt", "net.caffemodel")
        >>> smaller = twofold.decompose(model, macs=0.5).model
        >>> found = twofold.compare(model, smaller)
        >>> [output.name for output in found.outputs]
        ['score', 'prob']
        >>> found.macs[1] <= 0.5 * found.macs[0]
        True
    """
    source = CalibrationSource.of(source, images=images, image_options=image_options, data=data)
    timers = [here(name, threads) for name in _named(runtimes)]
    (first, second), data = with_data((first, second), example_inputs, source.data)
    with computing_on(device):
        found, inputs = _outputs(first, second, replace(source, data=data), on_batch)
    layers = first.convolutions(), second.convolutions()
    workload = Workload.of([layer for of_model in layers for layer in of_model])
    macs, params = [], []
    for of_model in layers:
        macs.append(0 if workload.per_position else sum(map(workload.layer_macs, of_model)))
        params.append(sum(map(layer_params, of_model)))
    times, notes = _times(first, second, timers, told=runtimes is not None)
    outputs = found.outputs()
    return Comparison(
        outputs, inputs.count, (macs[0], macs[1]), (params[0], params[1]), times,
        (*_remarks(outputs), *inputs.provenance.lines, *notes),
    )  # fmt: skip


def _outputs(
    first: Any, second: Any, source: CalibrationSource,
    on_batch: Callable[[Batch, Outputs, Outputs], None] | None,
) -> tuple[_Found, Inputs]:  # fmt: skip
    """What both models give, and for which inputs."""
    probe = runner_for(first, source.targets)
    names = tuple(dict.fromkeys((*probe.outputs, *probe.network_outputs)))
    runners = runner_for(first, names), runner_for(second, names)
    if runners[0].inputs != runners[1].inputs:
        raise ModelError(
            f"the models take different inputs: {dict(runners[0].inputs)} and {dict(runners[1].inputs)}"
        )
    inputs = unmixed(runners[1], calibration_inputs(runners[0], source))
    varying = runners[0].varying & set(names)
    if varying:  # lists belong to an image each
        inputs = inputs.batched(1)
    found = _Found(varying)
    for batch in track(inputs, "running both models"):
        pair = runners[0].run(batch), runners[1].run(batch)
        found.add(*pair)
        if on_batch is not None:
            on_batch(batch, *pair)
    return found, inputs


def _remarks(outputs: Sequence[OutputComparison]) -> Iterator[str]:
    """What must not be overlooked in what was found."""
    for one in outputs:
        warning = None if one.error is None else quality_warning(one.error)
        if warning is not None:
            yield f"{one.name}: {warning}"
        if one.boxes is not None and not one.boxes[0]:
            yield (
                f"{one.name}: the first model finds no box in these inputs, so they do not show whether "
                "boxes are kept; give images of what it detects (--images)"
            )
        elif one.boxes is not None and one.boxes[1] < one.boxes[0]:
            yield f"{one.name}: {one.boxes[0] - one.boxes[1]} of {one.boxes[0]} boxes are lost"


class _Found:
    """Collects the outputs of both models, batch by batch."""

    def __init__(self, varying: Collection[str] = ()) -> None:
        self._varying = varying
        self._errors = OutputErrorMetric()
        self._same: dict[str, list[bool]] = {}
        self._boxes: dict[str, NDArray[np.int64]] = {}
        self._names: dict[str, None] = {}

    def add(self, first: Outputs, second: Outputs) -> None:
        plain: dict[str, Any] = {}
        # What finds nothing may return no list at all.
        second = {**{name: first[name][:0] for name in first if name in self._varying}, **second}
        lists = box_lists(first, self._varying), box_lists(second, self._varying)
        for name, value in first.items():
            if name in self._varying:
                if name in lists[0] and name in lists[1]:
                    counts = np.array(matched(lists[0][name], lists[1][name]))
                elif not lists[0] and value.ndim:
                    counts = np.array(equal_rows(value, second[name]))
                else:  # scores and classes of boxes
                    continue
                self._boxes[name] = self._boxes.get(name, 0) + counts
                self._names[name] = None
                continue
            self._names[name] = None
            if are_boxes(value):
                counts = np.array(matched(value.reshape(-1, BOX_COLUMNS), second[name].reshape(-1, 7)))
                self._boxes[name] = self._boxes.get(name, 0) + counts
                continue
            if value.shape != second[name].shape:
                raise ModelError(
                    f"output {name!r} has the shapes {value.shape} and {second[name].shape}; "
                    "the models are not two forms of one"
                )
            plain[name] = value
            if are_classes(value, alone=len(first) == 1):
                classes = [one[name].reshape(value.shape[:2]).argmax(axis=1) for one in (first, second)]
                self._same.setdefault(name, []).extend((classes[0] == classes[1]).tolist())
        self._errors.add("", plain, {name: second[name] for name in plain})

    def outputs(self) -> tuple[OutputComparison, ...]:
        errors = self._errors.by_output("")
        found = []
        for name in self._names:
            same, boxes = self._same.get(name), self._boxes.get(name)
            found.append(
                OutputComparison(
                    name,
                    errors.get(name),
                    None if same is None else float(np.mean(same)),
                    None if boxes is None else (int(boxes[0]), int(boxes[1]), int(boxes[2])),
                )
            )
        return tuple(found)


def are_classes(value: NDArray[np.float32], *, alone: bool) -> bool:
    """Whether an output has a score per class and sample: values that add up to 1, or what stands `alone`.

    Other numbers may be scores before a softmax as well as places; where a net gives nothing else, they are
    taken as scores.
    """
    if value.ndim < 2 or value.shape[1] < 2 or value.size != value.shape[0] * value.shape[1]:
        return False
    rows = value.reshape(value.shape[:2])
    return alone or bool((rows >= 0).all() and (abs(rows.sum(axis=1) - 1) <= _ROUNDING).all())


def _named(runtimes: Sequence[str] | None) -> Sequence[str]:
    """The runtimes to time in, each once."""
    if runtimes is None:
        return [one.name for one in installed()]
    if isinstance(runtimes, str):
        return [runtimes]
    return list(dict.fromkeys(runtimes))


def _times(
    first: Model, second: Model, timers: Sequence[LocalTimer], *, told: bool
) -> tuple[tuple[TimeComparison, ...], tuple[str, ...]]:
    """Both models in turn in every runtime; notes on those that cannot run them.

    Args:
        first: the original.
        second: the other.
        timers: of the runtimes.
        told: whether somebody asked for just these, and wants to know where models of a kind are not run.
    """
    formats = [backend_of(model) for model in (first, second)]
    times, notes = [], []
    fitting = [one for one in timers if told or all(form_for(one.runtime, each) for each in formats)]
    for timer in track(fitting, "timing both models"):
        try:
            pair = timer.pair(first, second)
        except TwofoldError as error:
            notes.append(f"no time in {timer.runtime.label}: {error}")
            continue
        seconds, spread = (pair.first.median, pair.second.median), (pair.ratio.high - pair.ratio.low) / 2
        label = f"{timer.runtime.label}, {timer.threads} thread(s)"
        times.append(TimeComparison(label, seconds, pair.ratio.median, spread))
    return tuple(times), tuple(notes)


def _counted(number: int) -> str:
    """A count; convolutions whose sizes are not known give none."""
    return count_text(number) if number else "not counted"


def _ratio(pair: tuple[float, float]) -> str:
    return f"{pair[1] / pair[0]:.3f}" if all(pair) else ""
