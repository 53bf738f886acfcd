"""The command line: a thin shell over the public functions.

Results go to stdout, or as JSON with --json; progress and notes go to stderr. Exit codes: 0 done, 1 rejected
(one line gives the reason and what to do), 2 the command line itself is wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextvars import copy_context
from importlib.metadata import version
from typing import Annotated, cast

import typer

from ..errors import TwofoldError, UsageError, command_line
from ..progress import LINES
from ..ranks import speak
from ..renamed import todays
from ..system import explain, working_folder
from ..terminal import echo, ready, say, say_lines
from .commands import COMMAND
from .help import Group, usage_text

app = typer.Typer(
    name="twofold",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

#: What typer raises where the command line is wrong; its name and place differ between versions.
_UsageError = cast("type[Exception]", typer.BadParameter.__bases__[0])


def _version(wanted: bool) -> None:
    if wanted:
        echo(f"twofold {version('twofold')}")
        raise typer.Exit


@app.callback()
def _options(
    show: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Make trained convolutional networks faster: replace large convolutions with stacks of smaller ones."""


def _empty(words: Sequence[str]) -> str | None:
    """What is wrong where a word is empty, as of a variable that is not set: `Path` takes that for '.'."""
    for before, word in zip(("", *words), words, strict=False):
        name, equals, value = word.partition("=")
        if not word or (name.startswith("--") and equals and not value):
            option = name or before
            what = f"the value of {option}" if option.startswith("-") else "an argument"
            return f"{what} is empty; '.' names the working directory"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        The exit code.
    """
    ready()
    # In a context of its own: what the command line sets does not stay for whoever calls this from Python.
    return copy_context().run(_run, argv)


def _run(argv: Sequence[str] | None) -> int:
    try:
        working_folder()  # without one libraries end the process, each in its way
        words = list(sys.argv[1:] if argv is None else argv)
        if (empty := _empty(words)) is not None:
            speak(empty)
            return 2
        words, notes = todays(words)
        for note in notes:
            say(f"note: {note}")
        COMMAND.set(("twofold", *words))
        LINES.set(True)
        with command_line():
            code = app(args=words, prog_name="twofold", standalone_mode=False)
    except SystemExit as end:  # a pipe that closed, or what completion ends with
        return end.code if isinstance(end.code, int) else 0
    except _UsageError as error:
        say_lines(usage_text(error))
        return 2
    except KeyboardInterrupt:  # before a command runs, or behind it
        speak("interrupted; no file was left half-written")
        return 130
    except TwofoldError as error:
        speak(explain(error) or str(error))
        return 2 if isinstance(error, UsageError) else 1
    except Exception as error:
        line = explain(error)
        if line is None:
            raise  # a bug: whoever reports it needs the traceback
        speak(line)
        return 1
    return code if isinstance(code, int) else 0
