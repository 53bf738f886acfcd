"""Every option of every command with values that it may or may not take.

Names of files stay within the folder: the machine's own are not put at stake.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import typer

from twofold.cli import app

from .kills import clear
from .table import Row
from .worlds import COMMANDS, litter, run, world

#: Numbers, sizes, names, pairs and paths that none, some or all options take.
VALUES = (
    "0", "1", "-1", "0.5", "1e400", "-1e400", "nan", "inf", "-inf", "9" * 400, "9" * 5000, "\u00b2", "\u0663",
    "4294967296", "18446744073709551616", "x", "=", "a=b", "=1", "one=0", "one=99999999", ":", "1:0", "0:nan",
    "-inf:inf", "1x", "0x0", "99999999x99999999", "1,", ",", "1,nan,1e400", "*", "[", "(", "\x1b[2J",
    "\u202e", "\udcff", "net.prototxt/x", "net.prototxt", "data.npy", "made", "out", "no:such",
    "os:abort", "a" * 300, "%s", "{0}", "only=one", "1e-400", "-0", "1T", "0.1k", "1.1.1",
)  # fmt: skip
#: What the command line needs beside the commands that write.
READING = {
    "inspect": "inspect net.prototxt net.caffemodel",
    "latency show": "latency show",
    "doctor": "doctor",
}
#: Their values are functions of the user's that run, or programs.
_RUN = frozenset(("metric", "accuracy"))
LEAST = 20


def attacks() -> list[str]:
    """All command lines of one option and one value; options that come twice take the last."""
    return [
        f"{typed} {option} {value}"
        for typed in (*COMMANDS.values(), *READING.values())
        for option, value in product(_options(typed), VALUES)
        if not (option.strip("-") in _RUN and value == "os:abort")
    ]


def _options(typed: str) -> Iterator[str]:
    """The options of a command that take a value."""
    parser: Any = typer.main.get_command(app)
    for word in typed.split():
        found: Mapping[str, Any] = getattr(parser, "commands", {})
        if word not in found:
            break
        parser = found[word]
    for param in parser.params:
        if param.opts[0].startswith("-") and not param.is_flag:
            yield max(param.opts, key=len)


def rows(minutes: float, seed: int, *, least: int = LEAST) -> Iterator[Row]:
    """Type options for some minutes, in a random order; one row."""
    row, until = Row("options"), time.monotonic() + 60 * minutes
    waiting = attacks()
    random.Random(seed).shuffle(waiting)
    with world() as folder:
        for typed in waiting:
            if time.monotonic() > until and row.inputs >= least:
                break
            if problem := attack(folder, typed, row):
                print(f"options: twofold {typed[:200]}: {problem}", file=sys.stderr, flush=True)
    yield row


def attack(folder: Path, typed: str, row: Row) -> str:
    """Run one command line, and count how it ended.

    Returns:
        What went wrong; "" if nothing did.
    """
    clear(folder)
    (folder / "out").mkdir()
    (folder / "out" / "kept").write_text("kept")
    there = {*folder.iterdir(), folder / "tmp", folder / "cache"}
    before = {path: path.stat().st_size for path in there if path.is_file()}
    ran = run(folder, typed)
    for path in set(folder.iterdir()) - there:  # outputs of other names
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    row.inputs += 1
    problem = ran.problem
    row.killed += ran.code < 0
    row.uncaught += bool(problem) and ran.code >= 0
    if not problem:
        left = litter(folder)
        changed = [
            path.name for path, size in before.items() if not path.exists() or path.stat().st_size != size
        ]
        if left:
            problem = f"left behind: {', '.join(left)}"
        elif changed or not (folder / "out" / "kept").is_file():
            problem = f"changed: {', '.join(changed) or 'out'}"
        row.lost += bool(problem)
    row.accepted += not problem and ran.code == 0
    row.rejected += not problem and ran.code != 0
    return problem
