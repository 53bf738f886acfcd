"""Every command that writes, on a disk that is full or refuses, and under limits on files and memory."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from twofold.files.scratch import sweep
from twofold.formats.base import recover

from .kills import _lost, clear, killer
from .table import Row
from .worlds import COMMANDS, Ran, contents, litter, run, world

#: What commands write before their end: snapshots, and the cache of statistics.
_EARLY = ("tiny_iter_", "s.npz")
#: Fewest attacks of each kind, however little time there is.
LEAST = 3


def rows(minutes: float, seed: int, *, least: int = LEAST) -> Iterator[Row]:
    """Attack commands for some minutes; a row for each kind of attack."""
    with world() as folder:
        for number, (name, begin) in enumerate(KINDS.items()):
            rng = random.Random(seed * 100 + number)
            row = Row(name)
            until = time.monotonic() + 60 * minutes / (len(KINDS) + 1)
            while time.monotonic() < until or row.inputs < least:
                command = list(COMMANDS)[row.inputs % len(COMMANDS)]
                _attack(folder, command, begin(rng, folder), row)
            yield row
        yield _small_disks(folder, random.Random(seed), 60 * minutes / (len(KINDS) + 1), least)


def _attack(folder: Path, name: str, begin: Callable[[], object], row: Row, *, fresh: bool = True) -> None:
    """Run a command under an attack, over older files; they must stay or be exchanged as a whole."""
    if fresh:
        clear(folder)
    old = {"net.prototxt": b"old", "net.onnx": b"old", "plan.json": b"old"}
    (folder / "out").mkdir(exist_ok=True)
    for file, content in old.items():
        (folder / "out" / file).write_bytes(content)
    typed = f"{COMMANDS[name]} --force"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = run(folder, typed, begin)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row.seconds = max(row.seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    problem = _problem(folder, ran, old)
    row.inputs += 1
    if not problem:
        row.accepted += ran.code == 0
        row.rejected += ran.code != 0
        return
    row.killed += ran.code < 0
    row.uncaught += bool(ran.problem) and ran.code >= 0
    row.lost += not ran.problem
    print(f"{row.name}: twofold {typed}: {problem}", file=sys.stderr, flush=True)


def _problem(folder: Path, ran: Ran, old: dict[str, bytes]) -> str:
    if ran.problem:
        return ran.problem
    if (folder / "out").is_dir():
        recover(folder / "out")  # what a disk did not let go is litter for the next run
    found = contents(folder)
    if ran.code:
        kept = {name: content for name, content in found.items() if name in old}
        more = [name for name in found.keys() - old.keys() if not name.startswith(_EARLY)]
        # Where the disk does not even let go, the next run completes what was decided: `recover` has, above.
        completed = "the next load or save in that folder completes it" in ran.said
        if problem := _lost(old, kept, found if completed else old):
            return problem
        if more and not completed:
            return f"written by a command that failed: {', '.join(more)}"
    sweep(folder / "tmp")
    left = litter(folder)
    return f"left behind: {', '.join(left)}" if left else ""


def _file_size(rng: random.Random, _: Path) -> Callable[[], object]:
    size = int(2 ** rng.uniform(0, 17))
    return lambda: _limit(resource.RLIMIT_FSIZE, size)


def _descriptors(rng: random.Random, _: Path) -> Callable[[], object]:
    more = rng.randrange(12)
    return lambda: _limit(resource.RLIMIT_NOFILE, len(os.listdir("/proc/self/fd")) + more)


def _memory(rng: random.Random, _: Path) -> Callable[[], object]:
    """A little more memory than what is taken already."""
    more = int(2 ** rng.uniform(12, 28))

    def begin() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + more)

    return begin


def _full(rng: random.Random, _: Path) -> Callable[[], object]:
    """The disk is full from one file event on, or once."""
    number = rng.choice((errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT))
    event, once = rng.randrange(1, 40), rng.random() < 0.5

    def act() -> None:
        raise OSError(number, os.strerror(number))

    return lambda: killer(event, act, once=once)


def _working_folder(_: random.Random, folder: Path) -> Callable[[], object]:
    """The working directory goes before the command begins."""

    def begin() -> None:
        gone = folder / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    return begin


def _limit(which: int, value: int) -> None:
    resource.setrlimit(which, (value, resource.getrlimit(which)[1]))


KINDS: dict[str, Callable[[random.Random, Path], Callable[[], object]]] = {
    "limit on file sizes": _file_size,
    "limit on open files": _descriptors,
    "limit on memory": _memory,
    "errors of the disk": _full,
    "no working directory": _working_folder,
}


def _small_disks(folder: Path, rng: random.Random, seconds: float, least: int) -> Row:
    """Commands that write to a disk of few bytes; none where nothing can be mounted."""
    row, until = Row("full disk"), time.monotonic() + seconds
    while time.monotonic() < until or row.inputs < least:
        clear(folder)
        (folder / "out").mkdir()
        size = f"size={rng.choice((16, 32, 64, 128, 256))}k"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "none", folder / "out"], capture_output=True, check=False
        )
        if mounted.returncode:
            break
        try:
            name = list(COMMANDS)[row.inputs % len(COMMANDS)]
            _attack(folder, name, lambda: None, row, fresh=False)
        finally:
            subprocess.run(["umount", folder / "out"], check=True)
            shutil.rmtree(folder / "out", ignore_errors=True)
    return row
