"""The command `twofold report`, and what the other commands need to write one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, TypeVar

import typer

from ..decomposition.result import PLAN_FILE
from ..errors import FormatError, OptionError, OutputError, TwofoldError
from ..formats.base import Model, commit, preflight, reject_existing
from ..planning import Plan
from ..system import exists, is_dir, is_file, real
from ..terminal import echo, paths_text, say
from .commands import COMMAND
from .common import AsJson, Force

T = TypeVar("T")

if TYPE_CHECKING:
    from ..calibration.inputs import Batch
    from ..calibration.runner import Outputs
    from ..compare import Comparison
    from ..decomposition.result import Result
    from ..finetune import Outcome
    from ..int8.quantize import Quantized
    from ..recover import Recovery
    from ..report.data import Sample, Training

#: What a report is called beside a model.
FILES = ("report.json", "report.html")

NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.html beside the result.")]
ReportFolder = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FOLDER",
        help="Write a report.html into this folder. Without, no file is written.",
    ),
]


def files_of(result: Result[Model]) -> Mapping[str, bytes]:
    """The report of a decomposition, by file name; nothing where it fails, which must not cost the model."""
    from ..report import files, of_result  # noqa: PLC0415 - needs what only a report needs

    found = attempt(lambda: of_result(result, COMMAND.get()))
    if found is not None and found.boxes:
        say(f"note: {found.boxes}")
    return {} if found is None else (attempt(lambda: files(found)) or {})


def attempt(make: Callable[[], T]) -> T | None:
    """Do something for a report, which must not cost what it reports on."""
    try:
        return make()
    except Exception as error:  # a bug, or a file that cannot be written
        say(f"note: no report: {type(error).__name__}: {error}")
        return None


class Watch:
    """Keeps the first inputs of a comparison, with both outputs."""

    def __init__(self, folder: Path | None, color: str) -> None:
        """Keep them for a folder, unless that is None; `color` is the order of the channels of images."""
        self.folder = folder
        self._color = color
        self._samples: list[Sample] = []

    def __call__(self, batch: Batch, before: Outputs, after: Outputs) -> None:
        """See `compare`."""
        from ..report.capture import COUNT, samples  # noqa: PLC0415 - needs what only a report needs

        if self.folder is not None and len(self._samples) < COUNT:
            self._samples += attempt(lambda: samples(batch, before, after, self._color)) or ()
            del self._samples[COUNT:]

    def write(self, found: Comparison, title: str, *, force: bool) -> None:
        """Write the report, where a folder was given for it."""
        from ..report import of_comparison, write  # noqa: PLC0415 - needs what only a report needs

        folder = self.folder
        if folder is not None:
            attempt(
                lambda: write(of_comparison(found, title, self._samples, COMMAND.get()), folder, force=force)
            )


class TrainingHistory:
    """Writes the report of a training beside its snapshots."""

    def __init__(self, solver: Path, prefix: Path, *, resume: bool, force: bool) -> None:
        """Look what is there before the training begins; the report of what is resumed goes on.

        Args:
            solver: the solver's prototxt.
            prefix: of the snapshots, in whose folder the report goes.
            resume: a training goes on from its newest snapshot.
            force: what is there is exchanged.

        Raises:
            OutputError: there is a report, of something else where a training is resumed.
        """
        from ..finetune.resume import snapshots  # noqa: PLC0415 - needs PyTorch

        self._solver, self._folder = solver, prefix.parent
        self._earlier: Training | None = None
        files = [self._folder / name for name in FILES]
        if resume and exists(files[0]):
            self._earlier = self._of_this(files[0])
        elif not force and not snapshots(prefix):  # else the training itself says what can be done
            reject_existing(files)

    def _of_this(self, path: Path) -> Training:
        from ..report import Report  # noqa: PLC0415 - needs what only a report needs

        try:
            found = Report.load(path)
        except FormatError:
            found = None
        if found is None or found.training is None or found.title != self._solver.name:
            raise OutputError(
                f"{path}: is no report of a training by {self._solver.name}, so it is not overwritten; move "
                "it away, or give --no-report"
            )
        return found.training

    def write(self, outcome: Outcome) -> None:
        """Write the report, together with what the training showed before it was resumed."""
        from ..report import of_training, training_of, write  # noqa: PLC0415 - needs what only a report needs

        found = training_of(outcome)
        if self._earlier is not None:
            found = found.after(self._earlier)
        report = of_training(found, self._solver.name, COMMAND.get())
        if attempt(lambda: write(report, self._folder, force=True)) is not None:
            say(f"report: {self._folder / FILES[1]}")


def plan_beside(definition: Path, original: Model) -> Plan | None:
    """The plan beside a decomposed model, to show its layers; None with a note where it is of another."""
    path = definition.parent / PLAN_FILE
    if not is_file(path):
        return None
    try:
        plan = Plan.load(path)
    except TwofoldError as error:
        say(f"note: the report does not show the layers: {error}")
        return None
    if plan.sources != original.sources():
        say(f"note: the report does not show the layers: {path} is the plan of another model")
        return None
    return plan


def recovered_files(found: Recovery, original: Model, plan: Plan | None) -> Mapping[str, bytes]:
    """The report of a recovery; nothing where it fails, which must not cost the model."""
    from ..report import files, of_recovery  # noqa: PLC0415 - needs what only a report needs

    return attempt(lambda: files(of_recovery(found, original, plan, COMMAND.get()))) or {}


def quantized_files(found: Quantized) -> Mapping[Path, bytes]:
    """The report of a quantization; nothing where it fails, which must not cost the model."""
    from ..report import files, of_quantization  # noqa: PLC0415 - needs what only a report needs

    made = attempt(lambda: files(of_quantization(found, COMMAND.get()))) or {}
    return {found.path.with_name(name): content for name, content in made.items()}


def report(
    source: Annotated[
        Path, typer.Argument(help="The folder of a result, or its report.json.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page. Default: report.html beside the JSON."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make report.html again from the JSON on disk; the model is not needed.

    Example: twofold report out/
    """
    from ..report import Report  # noqa: PLC0415 - needs what only a report needs
    from ..report.page import page  # noqa: PLC0415 - the same

    found = Report.load(source)
    origin = source / FILES[0] if is_dir(source) else source
    target = output or origin.with_suffix(".html")
    force = force or output is None  # the page beside the JSON is what the command is for
    preflight([target], force=force)
    if real(target) == real(origin):
        raise OptionError(f"{target}: is the report's JSON; name another file for the page")
    content = page(found).encode("utf-8", "replace")

    def write(stream: BinaryIO) -> None:
        stream.write(content)

    commit({target: write}, force=force)
    echo(json.dumps({"files": [str(target)]}, indent=2) if as_json else f"written: {paths_text([target])}")
