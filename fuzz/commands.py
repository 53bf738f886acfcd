"""Attacks through the real command line: a process each, its exit code, and what it prints."""

from __future__ import annotations

import itertools
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .pool import MEMORY, SLOW, Finding
from .readers import READERS
from .table import Row

#: By reader, what is typed; NET stands for a definition and its weights, * for the attack.
COMMANDS = {
    "prototxt": (
        "inspect * net.caffemodel",
        "decompose * net.caffemodel -o out --no-data",
        "export * net.caffemodel -o out.onnx",
    ),
    "layers": ("inspect *",),
    "caffemodel": (
        "inspect net.prototxt *",
        "decompose net.prototxt * -o out --no-data --macs 0.8",
        "latency export net.prototxt * -o out",
    ),
    "hdf5": ("inspect net.prototxt *", "decompose net.prototxt * -o out --no-data"),
    "onnx": ("inspect *", "decompose * -o out --no-data"),
    "solver": ("finetune *",),
    "plan": ("apply * net.prototxt net.caffemodel -o out",),
    "report": ("report * -o page.html",),
    "latency": ("latency show",),
    "times": ("decompose net.prototxt net.caffemodel -o out --no-data --speedup 1.1 --latency-table *",),
    "statistics": ("decompose net.prototxt net.caffemodel -o out --statistics *",),
    "known": (
        "decompose net.prototxt net.caffemodel -o out --macs 0.8 --multiple 2 --data data.npy --statistics *",
    ),
    "npy": ("decompose net.prototxt net.caffemodel -o out --data *",),
    "npz": ("compare net.prototxt net.caffemodel net.prototxt net.caffemodel --data * --runtime torch",),
    "mean": ("decompose net.prototxt net.caffemodel -o out --mean *",),
    "image": ("compare net.prototxt net.caffemodel net.prototxt net.caffemodel --images * --runtime none",),
}
_NET = ("prototxt/net.prototxt", "caffemodel/net.caffemodel")
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_CODE = "import sys; from twofold.cli import main; sys.exit(main())"


def run_commands(count: int, seed: int, until: float, finding: Callable[[Finding], None]) -> Row:
    """Run attacks one after another, until a moment of `time.monotonic` and `count` are through."""
    row = Row("command line")
    rng = random.Random(seed)
    for index, name in enumerate(itertools.cycle(COMMANDS)):
        if time.monotonic() > until and index >= count:
            break
        number = rng.randrange(1000, 1 << 30)
        what = _run(name, number, rng.choice(COMMANDS[name]), row)
        if what:
            finding(Finding(name, number, what))
    return row


def _run(name: str, number: int, typed: str, row: Row) -> str:
    """Run one attack; gives what is wrong with how it ended, "" where nothing is."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        reader = READERS[name]
        for source in _NET:
            shutil.copy(reader.path_of(source), folder)
        path = reader.place(folder)
        path.write_bytes(reader.attack(number))
        before = {one.name for one in folder.iterdir()}
        environment = {
            **os.environ,
            "TWOFOLD_LATENCY_CACHE": str(folder),
            "TWOFOLD_CACHE": "",
            "OMP_NUM_THREADS": "1",
        }
        argv = [path.name if word == "*" else word for word in typed.split()]
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.run(
            [sys.executable, "-c", _CODE, *argv],
            cwd=folder,
            env=environment,
            capture_output=True,
            check=False,
        )
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return _verdict(run, argv, began, ended, row) or _litter(folder, before, run.returncode, row)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _verdict(
    run: subprocess.CompletedProcess[bytes],
    argv: list[str],
    began: resource.struct_rusage,
    ended: resource.struct_rusage,
    row: Row,
) -> str:
    out, err = run.stdout.decode("utf-8", "replace"), run.stderr.decode("utf-8", "replace")
    seconds = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    row.inputs += 1
    row.seconds = max(row.seconds, seconds)
    row.peak = max(row.peak, ended.ru_maxrss << 10)  # of the largest child so far
    asked = " ".join(argv)
    if run.returncode < 0:
        row.killed += 1
        return f"twofold {asked}: ended by signal {-run.returncode}"
    if run.returncode not in (0, 1, 2) or "Traceback" in err:
        row.uncaught += 1
        return f"twofold {asked}: {run.returncode}: {err[-3000:]}"
    if _CONTROL.search(out + err):
        row.uncaught += 1
        return f"twofold {asked}: control characters reach the terminal: {(out + err)[:500]!r}"
    if run.returncode and not err.rstrip("\n").splitlines()[-1:][0].startswith("twofold: "):
        row.uncaught += 1
        return f"twofold {asked}: {run.returncode} without a reason: {err[-500:]}"
    if seconds > SLOW + 10:  # ten are for the start of a busy machine
        row.slow += 1
        return f"twofold {asked}: {seconds:.0f} s"
    if began.ru_maxrss << 10 < MEMORY < ended.ru_maxrss << 10:
        row.greedy += 1
        return f"twofold {asked}: {ended.ru_maxrss >> 10} MB"
    row.accepted += not run.returncode
    row.rejected += bool(run.returncode)
    return ""


def _litter(folder: Path, before: set[str], code: int, row: Row) -> str:
    """What a run left that it must not: temporaries, and anything at all where it was rejected."""
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*")} - before - {"out"}
    bad = [one for one in left if ".twofold-" in one or one.endswith(".part") or code]
    bad = [
        one for one in bad if not one.endswith(".json") or "plan" in one
    ]  # tables of times that were measured
    if not bad:
        return ""
    row.lost += 1
    return f"left behind: {', '.join(sorted(bad)[:5])}"
