"""Every command that writes, killed at each of its file events; then run again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twofold.formats.base import recover

from .table import Row
from .worlds import COMMANDS, contents, litter, run, world

#: What changes files; `open` where it is for writing.
_EVENTS = frozenset(
    {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "open"}
)
#: Fewest kills, however little time there is: each command once.
LEAST = len(COMMANDS)


def rows(minutes: float, seed: int, *, least: int = LEAST) -> Iterator[Row]:
    """Kill commands for some minutes, at least `least` times; a row for each."""
    with world() as folder:
        found = {name: Row(f"kill {name}") for name in COMMANDS}
        until = time.monotonic() + 60 * minutes
        for done, (name, event, over) in enumerate(_attacks(folder, seed)):
            if time.monotonic() > until and done >= least:
                break
            problem = attack(folder, COMMANDS[name], event, over=over)
            row = found[name]
            row.inputs += 1
            row.rejected += not problem
            row.lost += bool(problem)
            if problem:
                print(f"kill {name} at file event {event}: {problem}", file=sys.stderr, flush=True)
        yield from found.values()


def _attacks(folder: Path, seed: int) -> Iterator[tuple[str, int, bool]]:
    """Commands in turn, each at all its events in a random order, over old files or none."""
    rng = random.Random(seed)
    waiting = {}
    for name, typed in COMMANDS.items():
        clear(folder)
        events = list(range(1, run(folder, typed, lambda: killer(0)).count + 1))
        rng.shuffle(events)
        waiting[name] = events
    while any(waiting.values()):
        for name, events in waiting.items():
            if events:
                yield name, events.pop(), rng.random() < 0.5


def attack(folder: Path, typed: str, event: int, *, over: bool) -> str:
    """Kill a command at one of its file events, and run it again.

    Args:
        folder: the world.
        typed: the command.
        event: which, from 1.
        over: older files are in place.

    Returns:
        What went wrong; "" if nothing did.
    """
    clear(folder)
    old: dict[str, bytes] = {}
    if over:
        run(folder, typed)
        for path in (folder / "out").iterdir():
            path.write_bytes(b"old " + path.name.encode())
        (folder / "out" / "s.npz").unlink(missing_ok=True)  # is read where it is there
        old = contents(folder)
    killed = run(folder, f"{typed} --force", lambda: killer(event))
    if killed.code != -signal.SIGKILL:
        return killed.problem  # it ended before that event, which is no harm
    if (folder / "out").is_dir():
        recover(folder / "out")
    after = contents(folder)
    (folder / "out" / "s.npz").unlink(missing_ok=True)  # plans say whether they read or gathered it
    again = run(folder, f"{typed} --force")
    if again.code:
        return f"it does not run again: {again.problem or again.said[-500:]}"
    new = contents(folder)
    if left := litter(folder):
        return f"left behind: {', '.join(left)}"
    return _lost(old, after, new)


def _lost(old: dict[str, bytes], after: dict[str, bytes], new: dict[str, bytes]) -> str:
    """What a kill took away: each file is as it was or as it will be."""
    for name in old.keys() - after.keys():
        return f"{name} is gone"
    for name, content in after.items():
        if content not in (old.get(name), new.get(name)):
            return f"{name} is neither old nor new"
    return ""


def clear(folder: Path) -> None:
    """Take away what commands wrote."""
    for name in ("out", "tmp", "cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
    if (folder / "out").is_file():
        (folder / "out").unlink()


def killer(event: int, act: Callable[[], None] | None = None, *, once: bool = True) -> Callable[[], int]:
    """Count this process's file events, and do something at one, or from one on: by default, kill it."""
    count = 0
    here = os.getpid()

    def at(name: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if name not in _EVENTS or (name == "open" and not _writes(args)) or os.getpid() != here:
            return
        count += 1
        if count == event or (not once and count > event):
            if act is None:
                os.kill(here, signal.SIGKILL)
            else:
                act()

    sys.addaudithook(at)
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        at("os.rename", ())
        sync(descriptor)

    os.fsync = fsync
    return lambda: count


def _writes(args: tuple[Any, ...]) -> bool:
    path, _, flags = args
    return isinstance(path, (str, bytes, os.PathLike)) and bool(
        flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    )
