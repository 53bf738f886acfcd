"""The command line: a thin shell over the public functions.

Results go to stdout, or as JSON with --json; progress and notes go to stderr. Exit codes: 0 done, 1 refused
(one line says why and what to do), 2 the command line itself is wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper

import typer

from ..errors import TwofoldError
from .check import compare
from .common import say
from .deploy import export, quantize
from .improve import finetune, recover
from .make import apply, decompose, inspect
from .times import app as latency

app = typer.Typer(
    name="twofold",
    help="Make trained convolutional networks faster: replace large convolutions by stacks of smaller ones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

for command in (inspect, decompose, apply, compare, recover, export, quantize, finetune):
    app.command()(command)
app.add_typer(latency, name="latency")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Names of layers may hold characters that a terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=None if argv is None else list(argv), prog_name="twofold")
    except SystemExit as end:  # typer ends a run so, with 2 for a wrong command line
        return end.code if isinstance(end.code, int) else 0
    except TwofoldError as error:
        say(f"twofold: {error}")
        return 1
    return 0
