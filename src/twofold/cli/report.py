"""The command `twofold report`, and what the other commands need to write one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, TypeVar

import typer

from ..errors import OptionError
from ..formats.base import Model, commit
from .common import AsJson, say

T = TypeVar("T")

if TYPE_CHECKING:
    from ..calibration.inputs import Batch
    from ..calibration.runner import Outputs
    from ..compare import Comparison
    from ..finetune import Outcome
    from ..quantize import Quantized
    from ..report.data import Sample
    from ..result import Result

#: What a report is called beside a model.
FILES = ("report.json", "report.html")
#: The command line that runs.
COMMAND: ContextVar[tuple[str, ...]] = ContextVar("command", default=())

NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.html.")]
ReportFolder = Annotated[
    Path | None,
    typer.Option("--report", metavar="FOLDER", help="Write a report.html into this folder."),
]


def files_of(result: Result[Model]) -> Mapping[str, bytes]:
    """The report of a decomposition, by file name; nothing where it fails, which must not cost the model."""
    from ..report import of_result  # noqa: PLC0415 - needs what only a report needs

    found = attempt(lambda: of_result(result, COMMAND.get()))
    return {} if found is None else (attempt(found.files) or {})


def attempt(make: Callable[[], T]) -> T | None:
    """Do something for a report, which must not cost what it reports on."""
    try:
        return make()
    except Exception as error:  # a bug, or a file that cannot be written
        say(f"note: no report: {type(error).__name__}: {error}")
        return None


class Watch:
    """Keeps the first inputs of a comparison, with both outputs."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._samples: list[Sample] = []

    def __call__(self, batch: Batch, before: Outputs, after: Outputs) -> None:
        """See `compare`."""
        from ..report.capture import COUNT, samples  # noqa: PLC0415 - needs what only a report needs

        if self.folder is not None and len(self._samples) < COUNT:
            self._samples += attempt(lambda: samples(batch, before, after)) or ()
            del self._samples[COUNT:]

    def write(self, found: Comparison, title: str, *, force: bool) -> None:
        """Write the report, where a folder was given for it."""
        from ..report import of_comparison, write  # noqa: PLC0415 - needs what only a report needs

        folder = self.folder
        if folder is not None:
            attempt(
                lambda: write(of_comparison(found, title, self._samples, COMMAND.get()), folder, force=force)
            )


def write_training(folder: Path | None, solver: Path, outcome: Outcome) -> None:
    """Write the report of a training, where a folder was given for it; what was there is exchanged."""
    from ..report import Training, of_training, write  # noqa: PLC0415 - needs what only a report needs

    if folder is None or outcome.rank:
        return
    tests: dict[str, list[tuple[int, float]]] = {}
    for test in outcome.tests:
        for name, values in test.outputs.items():
            for i, value in enumerate(values):
                label = f"test net #{test.net}: {name}" + (f"[{i}]" if len(values) > 1 else "")
                tests.setdefault(label, []).append((test.iteration, value))
    found = Training(outcome.losses, {name: tuple(points) for name, points in tests.items()})
    attempt(lambda: write(of_training(found, solver.name, COMMAND.get()), folder, force=True))


def quantized_paths(path: Path) -> tuple[Path, Path]:
    """Where the report of a quantization goes, beside the model."""
    return path.with_name(f"{path.stem}_report.json"), path.with_name(f"{path.stem}_report.html")


def quantized_files(found: Quantized) -> Mapping[Path, bytes]:
    """The report of a quantization; nothing where it fails, which must not cost the model."""
    from ..report import of_quantization  # noqa: PLC0415 - needs what only a report needs

    stem = quantized_paths(found.path)[0].stem
    files = attempt(lambda: of_quantization(found, COMMAND.get()).files(stem)) or {}
    return {found.path.with_name(name): content for name, content in files.items()}


def report(
    source: Annotated[
        Path, typer.Argument(help="The folder of a result, or its report.json.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page. Default: report.html beside the JSON."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make report.html again from the JSON on disk; the model is not needed.

    Example: twofold report out/
    """
    from ..report import Report  # noqa: PLC0415 - needs what only a report needs

    found = Report.load(source)
    origin = source / FILES[0] if source.is_dir() else source
    target = output or origin.with_suffix(".html")
    if target.resolve() == origin.resolve():
        raise OptionError(f"{target}: is the report's JSON; name another file for the page")
    page = found.page().encode("utf-8", "replace")

    def write(stream: BinaryIO) -> None:
        stream.write(page)

    commit({target: write}, force=output is None)
    print(json.dumps({"files": [str(target)]}, indent=2) if as_json else f"written: {target}")
