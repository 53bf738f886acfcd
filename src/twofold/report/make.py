"""Reports of what was done: one function for all, and what it makes of each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from ..compare import Comparison
from ..conv import ConvLayer
from ..decomposition.result import Result
from ..errors import OptionError, TwofoldError
from ..formats.base import Model, commit
from ..int8.quantize import Quantized
from ..planning import Plan
from ..recover import Recovery
from .capture import capture
from .data import Made, Recovered, Report, Sample, Training, TrainingHistory
from .page import files

if TYPE_CHECKING:
    from ..finetune.evaluate import Test
    from ..finetune.options import Outcome

T = TypeVar("T")

#: Points of one curve of a training.
_MOST_POINTS = 400


def report(
    source: Result[Any] | Comparison | Quantized | Recovery | Outcome | Training,
    folder: str | Path | None = None,
    *,
    title: str | None = None,
    original: Model | None = None,
    plan: Plan | None = None,
    samples: Sequence[Sample] = (),
    command: Sequence[str] = (),
    force: bool = False,
) -> Report:
    """Report on what was done: what `report.html` shows, as a value that saves as JSON.

    Args:
        source: what `decompose`, `compare`, `quantize`, `recover` or `finetune.train` gives.
        folder: where `report.html` and `report.json` are written; nothing is written without, and of several
            processes only by the first.
        title: what the page is about; by default the name of a file where there is one.
        original: of a recovery: the model that taught.
        plan: of a recovery: what the decomposed model was made by; its layers are shown.
        samples: of a comparison: a few inputs with both outputs; see `report.capture.samples`.
        command: the command line that did it, word by word.
        force: exchange files that exist.

    Raises:
        OptionError: nothing of that kind is reported on.
        OutputError: files exist with another content and `force` is false, or the system rejects it.

    Examples:
        >>> model = twofold.load("net.prototxt", "net.caffemodel")
        >>> result = twofold.decompose(model, macs=0.5, no_data=True)
        >>> twofold.report(result, "report/").title
        'net.prototxt'
    """
    if isinstance(source, Result):
        made = of_result(source, command)
    elif isinstance(source, Comparison):
        made = of_comparison(source, "comparison", samples, command)
    elif isinstance(source, Quantized):
        made = of_quantization(source, command)
    elif isinstance(source, Recovery):
        made = of_recovery(source, original, plan, command)
    elif isinstance(source, Training):
        made = of_training(source, "training", command)
    elif _is_outcome(source):
        made = of_training(training_of(source), "training", command)
    else:
        raise OptionError(
            f"a report is made of what decompose, compare, quantize, recover or finetune gives, got a value "
            f"of type {type(source).__name__}"
        )
    made = made if title is None else replace(made, title=title)
    if folder is not None and not getattr(source, "rank", 0):
        write(made, Path(folder), force=force)
    return made


def _is_outcome(value: object) -> TypeGuard[Outcome]:
    """Whether a value is what a fine-tuning gives; whoever has one has imported PyTorch."""
    options = sys.modules.get("twofold.finetune.options")
    return options is not None and isinstance(value, options.Outcome)


def training_of(outcome: Outcome) -> Training:
    """The course of a fine-tuning."""
    tests = [one for one in outcome.tests if not one.int8]
    int8 = [one for one in outcome.tests if one.int8]
    return Training(
        outcome.losses, _scores(tests), outcome.rates, int8=outcome.int8, int8_tests=_scores(int8)
    )


def _scores(tests: Sequence[Test]) -> dict[str, TrainingHistory]:
    """(iteration, value) of each test score, by its name."""
    found: dict[str, TrainingHistory] = {}
    for test in tests:
        for name, values in test.outputs.items():
            for i, value in enumerate(values):
                label = f"test net #{test.net}: {name}" + (f"[{i}]" if len(values) > 1 else "")
                found[label] = (*found.get(label, ()), (test.iteration, value))
    return found


def files_of(result: Result[Any]) -> dict[str, bytes]:
    """JSON and page of a result, by file name."""
    return files(of_result(result))


def of_result(result: Result[Any], command: Sequence[str] = ()) -> Report:
    """The report of a decomposition; parts that cannot be made are left out with a note."""
    notes: list[str] = []
    graph = _tried(result.original.graph, "the network's structure cannot be shown", notes)
    samples: tuple[Sample, ...] = ()
    calibration = result.calibration
    if calibration is not None:
        layers = {one.name: one for one in result.original.convolutions() if isinstance(one, ConvLayer)}
        stacks = [(layers[name], stack) for name, stack in result.factors.items()]
        samples = (
            _tried(lambda: capture(result.original, calibration, stacks), "no inputs are shown", notes) or ()
        )
    title = next(iter(result.plan.sources), "network")
    return Report(
        title, Made.here(command), result.plan, result.tradeoff_curves, graph, samples, notes=tuple(notes)
    )  # fmt: skip


def of_comparison(
    found: Comparison, title: str, shown: Sequence[Sample] = (), command: Sequence[str] = ()
) -> Report:
    """The report of a comparison; `shown` are a few inputs with both outputs."""
    return Report(title, Made.here(command), samples=tuple(shown), comparison=found)


def of_quantization(found: Quantized, command: Sequence[str] = ()) -> Report:
    """The report of a quantization."""
    return Report(found.path.name, Made.here(command), quantized=found)


def of_training(found: Training, title: str, command: Sequence[str] = ()) -> Report:
    """The report of a training."""
    return Report(title, Made.here(command), training=_thinned(found))


def of_recovery(
    found: Recovery, original: Model | None, plan: Plan | None, command: Sequence[str] = ()
) -> Report:
    """The report of a recovery.

    Args:
        found: the recovery.
        original: the model that taught, where it is to be shown.
        plan: what the decomposed model was made by, where that is known; its layers are shown.
        command: the command line, word by word.
    """
    notes: list[str] = []
    graph = None
    if plan is not None and original is not None:
        graph = _tried(original.graph, "the network's structure cannot be shown", notes)
    course = Training(found.losses, {"error of the outputs, held out": found.curve}, counted="step")
    sources = original.sources() if original is not None else plan.sources if plan is not None else {}
    gained = Recovered((found.before, found.after), found.samples, found.notes)
    return Report(
        next(iter(sources), "network"), Made.here(command),
        plan, graph=graph, training=_thinned(course),
        recovered=gained, notes=tuple(notes),
    )  # fmt: skip


def _thinned(found: Training) -> Training:
    """With no more points than a chart can show; the last of each course stays."""
    return replace(
        found,
        losses=_every(found.losses),
        rates=_every(found.rates),
        tests={name: _every(points) for name, points in found.tests.items()},
        int8_tests={name: _every(points) for name, points in found.int8_tests.items()},
    )


def _every(points: TrainingHistory) -> TrainingHistory:
    step = -(-len(points) // _MOST_POINTS) or 1
    return points[::-1][::step][::-1]


def write(report: Report, folder: Path, *, force: bool) -> tuple[Path, ...]:
    """Write page and JSON into a folder, both or none.

    Raises:
        OutputError: files exist with another content and `force` is false, or the system rejects it.
    """
    made = {folder / name: content for name, content in files(report).items()}
    commit({path: _writer(content) for path, content in made.items()}, force=force)
    return tuple(made)


def _writer(content: bytes) -> Callable[[Any], None]:
    return lambda stream: stream.write(content)


def _tried(make: Callable[[], T], what: str, notes: list[str]) -> T | None:
    """A part of the report; None with a note where it cannot be made."""
    try:
        return make()
    except TwofoldError as error:
        notes.append(f"{what}: {error}")
        return None
