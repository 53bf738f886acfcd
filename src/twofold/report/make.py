"""Reports of what the commands did."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..compare import Comparison
from ..conv import ConvLayer
from ..errors import TwofoldError
from ..formats.base import Model, commit
from ..int8.quantize import Quantized
from ..planning import Plan
from .capture import capture
from .data import Made, Recovered, Report, Sample, Training, TrainingHistory

if TYPE_CHECKING:
    from ..decomposition.result import Result
    from ..recover import Recovery

T = TypeVar("T")

#: Points of one curve of a training.
_MOST_POINTS = 400


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
    plan = json.loads(result.plan.to_json())
    title = next(iter(result.plan.sources), "network")
    return Report(
        title, Made.here(command), plan, result.tradeoff_curves, graph, samples, notes=tuple(notes)
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


def of_recovery(found: Recovery, original: Model, plan: Plan | None, command: Sequence[str] = ()) -> Report:
    """The report of a recovery.

    Args:
        found: the recovery.
        original: the model that taught.
        plan: what the decomposed model was made by, where that is known; its layers are shown.
        command: the command line, word by word.
    """
    notes: list[str] = []
    graph = None if plan is None else _tried(original.graph, "the network's structure cannot be shown", notes)
    course = Training(found.losses, {"error of the outputs, held out": found.curve}, counted="step")
    gained = Recovered((found.before, found.after), found.samples, found.notes)
    return Report(
        next(iter(original.sources()), "network"), Made.here(command),
        None if plan is None else json.loads(plan.to_json()), graph=graph, training=_thinned(course),
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
        OutputError: files exist with another content and `force` is false, or the system refuses.
    """
    files = {folder / name: content for name, content in report.files().items()}
    commit({path: _writer(content) for path, content in files.items()}, force=force)
    return tuple(files)


def _writer(content: bytes) -> Callable[[Any], None]:
    return lambda stream: stream.write(content)


def _tried(make: Callable[[], T], what: str, notes: list[str]) -> T | None:
    """A part of the report; None with a note where it cannot be made."""
    try:
        return make()
    except TwofoldError as error:
        notes.append(f"{what}: {error}")
        return None
