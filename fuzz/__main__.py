"""Attack every reader for a given time and print what came of it: `python -m fuzz --minutes 10`."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from .commands import run_commands
from .pool import Finding, Worker
from .readers import READERS
from .table import Row, table

FINDINGS = Path(__file__).parent / "findings"
_BATCH = 40


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


def others(minutes: float, seed: int) -> Iterator[Row]:
    """Rows of what stops a command from outside: kills at every file event, full disks, limits."""
    for name in ("options", "kills", "disks"):
        try:
            module = import_module(f"fuzz.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"fuzz.{name}":
                raise
            continue
        yield from module.rows(minutes, seed)


def main() -> int:
    """Run it; 1 where anything did harm."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("FUZZ_MINUTES", "10")))
    parser.add_argument("--inputs", type=int, default=0, help="at least so many, however long it takes")
    parser.add_argument("--commands", type=int, default=300, help="at most, through the real command line")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--reader", action="append", choices=list(READERS), help="only these")
    asked = parser.parse_args()
    print(f"seed {asked.seed}: the same seed gives the same attacks", flush=True)
    began, seconds = time.monotonic(), asked.minutes * 60
    readers = asked.reader or list(READERS)
    # Sixty per cent of the time for readers, the rest for commands and what stops them.
    rows = list(fuzz(readers, began + 0.6 * seconds, asked.inputs, asked.seed, asked.jobs, keep))
    if not asked.reader:
        rows.append(run_commands(asked.commands, asked.seed, began + 0.85 * seconds, keep))
        rows.extend(others(0.15 * asked.minutes, asked.seed))
    print(table(rows))
    harm = sum(row.harm for row in rows)
    print(f"\n{harm} did harm" + (f"; see {FINDINGS}" if harm else ""))
    return bool(harm)


if __name__ == "__main__":
    sys.exit(main())
