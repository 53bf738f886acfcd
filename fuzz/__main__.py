"""Attack every reader for a given time and print what came of it: `python -m fuzz --minutes 10`."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import disks, kills, options
from .commands import run_commands
from .pool import Finding, Worker
from .readers import READERS
from .table import Row, table

FINDINGS = Path(__file__).parent / "findings"
_BATCH = 40
#: The fraction of the time that each part has for itself, whatever the parts before it took.
FRACTIONS = {"readers": 0.5, "commands": 0.25, "options": 0.05, "kills": 0.1, "disks": 0.1}


def fuzz(
    readers: list[str], until: float, inputs: int, seed: int, jobs: int, finding: Callable[[Finding], None]
) -> Iterator[Row]:
    """Read attacks of all readers in turn, until a moment of `time.monotonic` and `inputs` are through."""
    rows = {name: Row(name) for name in readers}
    batches = _batches(readers, seed)
    workers: list[Worker] = []
    started = 0
    while True:
        while len(workers) < jobs and (time.monotonic() < until or started < inputs):
            name, numbers = next(batches)
            workers.append(Worker.start(name, numbers))
            started += len(numbers)
        if not workers:
            break
        for worker in list(workers):
            batch = worker.poll()
            if batch is None:
                continue
            workers.remove(worker)
            rows[worker.name].add(batch.row)
            for one in batch.findings:
                finding(one)
            if batch.row.killed and worker.rest():
                workers.append(Worker.start(worker.name, worker.rest()))
        time.sleep(0.005)
    yield from rows.values()


def _batches(readers: list[str], seed: int) -> Iterator[tuple[str, range]]:
    """Batches of attacks: the seeds of all first, then numbers that no other run of another seed has."""
    for name in readers:
        yield name, range(len(READERS[name].corpus()))
    for start in itertools.count(1000 + seed * 10_000_000, _BATCH):
        for name in readers:
            yield name, range(start, start + _BATCH)


def keep(one: Finding) -> None:
    """Write an attack that did harm to `fuzz/findings`, and say so."""
    reader = READERS[one.reader]
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{one.reader}-{one.number}{reader.suffix}"
    path.write_bytes(reader.attack(one.number))
    path.with_name(path.name + ".txt").write_text(one.what)
    last = one.what.strip().splitlines()[-1]
    print(f"{path.name}: {last[:150]}", file=sys.stderr, flush=True)


def others(minutes: float, seed: int, least: int) -> Iterator[Row]:
    """Rows of options, and of what stops a command from outside: kills at file events, full disks, limits.

    Args:
        minutes: of the whole run; each part takes its fraction of them.
        seed: the same gives the same attacks.
        least: fewest kills, however long they take.
    """
    yield from options.rows(FRACTIONS["options"] * minutes, seed)
    yield from kills.rows(FRACTIONS["kills"] * minutes, seed, least=max(least, kills.LEAST))
    yield from disks.rows(FRACTIONS["disks"] * minutes, seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("FUZZ_MINUTES", "10")))
    for name, what in (
        ("inputs", "mutated inputs"),
        ("commands", "attacks through the real command line"),
        ("kills", "kills at file events"),
    ):
        parser.add_argument(f"--{name}", type=int, default=0, help=f"at least so many {what}, however long")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--reader", action="append", choices=list(READERS), help="only these")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run it; 1 where anything did harm."""
    asked = _parser().parse_args(argv)
    print(f"seed {asked.seed}: the same seed gives the same attacks", flush=True)
    readers, seed, seconds = asked.reader or list(READERS), asked.seed, asked.minutes * 60
    until = time.monotonic() + (1 if asked.reader else FRACTIONS["readers"]) * seconds
    rows = list(fuzz(readers, until, asked.inputs, seed, asked.jobs, keep))
    if not asked.reader:
        until = time.monotonic() + FRACTIONS["commands"] * seconds
        rows.append(run_commands(asked.commands, seed, until, keep))
        rows.extend(others(asked.minutes, seed, asked.kills))
    print(table(rows))
    harm = sum(row.harm for row in rows)
    print(f"\n{harm} did harm" + (f"; see {FINDINGS}" if harm else ""))
    return bool(harm)


if __name__ == "__main__":
    sys.exit(main())
