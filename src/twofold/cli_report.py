"""The command `twofold report`, and what the other commands need to write one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import click
import typer

from .errors import OptionError
from .formats.base import Model, commit

T = TypeVar("T")

if TYPE_CHECKING:
    from .report import Report
    from .result import Result

#: Names of `report.JSON_FILE` and `report.PAGE_FILE`, which this module imports only to make a report.
FILES = ("report.json", "report.html")

NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.html.")]
ReportFolder = Annotated[
    Path | None,
    typer.Option("--report", metavar="FOLDER", help="Write report.html into this folder, too."),
]


def command() -> tuple[str, ...]:
    """The command line that runs, word by word."""
    context = click.get_current_context(silent=True)
    given = None if context is None else context.find_root().obj
    return ("twofold", *given) if given is not None else ()


def files_of(result: Result[Model]) -> Mapping[str, bytes]:
    """The report of a decomposition, by file name; nothing where it fails, which must not cost the model."""
    from .report import of_result  # noqa: PLC0415 - needs what only a report needs

    found = attempt(lambda: of_result(result, command()))
    return {} if found is None else (attempt(found.files) or {})


def attempt(make: Callable[[], T]) -> T | None:
    """Do something for a report, which must not cost what it reports on."""
    try:
        return make()
    except Exception as error:  # a bug, or a file that cannot be written
        print(f"note: no report: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def write_into(folder: Path | None, make: Callable[[], Report], *, force: bool) -> list[Path]:
    """Write a report into a folder, if one is given; gives its files."""
    if folder is None:
        return []
    from .report import write  # noqa: PLC0415 - needs what only a report needs

    return list(attempt(lambda: write(make(), folder, force=force)) or ())


def report(
    source: Annotated[
        Path, typer.Argument(help="The folder of a result, or its report.json.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page. Default: report.html beside the JSON."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a line.")] = False,
) -> None:
    """Make report.html again from the JSON on disk; the model is not needed.

    Example: twofold report out/
    """
    from .report import Report  # noqa: PLC0415 - needs what only a report needs

    found = Report.load(source)
    folder = source if source.is_dir() else source.parent
    target = output or folder / FILES[1]
    if target.resolve() == (source / FILES[0] if source.is_dir() else source).resolve():
        raise OptionError(f"{target}: is the report's JSON; name another file for the page")
    page = found.page().encode("utf-8", "replace")
    commit({target: lambda stream: stream.write(page)}, force=output is None)
    print(json.dumps({"files": [str(target)]}, indent=2) if as_json else f"written: {target}")
