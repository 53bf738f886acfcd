"""Processes that work together, as `torchrun` starts them, without the seconds in which each imports torch.

A server imports it once, and every process is a fork of that. `torchrun` itself is run by a test or two.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

_LIMIT_S = 1200
#: What a training imports, were it late: optimizers ask for dynamo.
_IMPORTED = (
    "pytest", "tests.processes", "torch", "torch._dynamo", "twofold.cli", "twofold.finetune.train",
    "twofold.recover", "twofold.cli.make",
)  # fmt: skip


@dataclass(frozen=True)
class Done:
    """How processes ended: the first exit status that is not 0, and what all of them wrote."""

    returncode: int
    stdout: str
    stderr: str


def torchrun(folder: Path, *argv: str, processes: int = 2) -> Done:
    """Run the command line under `torchrun` to its end."""
    line = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
        "-m", "twofold", *argv,
    ]  # fmt: skip
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def started(
    folder: Path, *argv: str, processes: int = 2, elsewhere: Mapping[int, Path] | None = None
) -> list[BaseProcess]:
    """Start what `torchrun` would; the streams of process N go to `stdout.N` and `stderr.N`.

    Args:
        folder: where the processes run and write.
        argv: of the command line.
        processes: how many.
        elsewhere: where some of them run instead, as on another machine with files of its own.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cache = os.environ.get("TWOFOLD_CACHE", "")
    given = [
        (str(folder), str((elsewhere or {}).get(rank, folder)), argv, rank, processes, port, cache)
        for rank in range(processes)
    ]
    members: list[BaseProcess] = [context.Process(target=_run, args=one) for one in given]
    for member in members:
        member.start()
    return members


def ended(folder: Path, members: Sequence[BaseProcess]) -> Done:
    """Wait for them; where one fails, those that wait for it are ended, as `torchrun` does."""
    waiting = list(members)
    while waiting:
        ready = multiprocessing.connection.wait([one.sentinel for one in waiting], _LIMIT_S)
        assert ready, "the processes wait for each other"
        over = [one for one in waiting if one.sentinel in ready]
        waiting = [one for one in waiting if one not in over]
        for one in over:
            one.join()
        if any(one.exitcode for one in over):
            for one in waiting:
                one.join(5)  # it may have the same to say
                one.terminate()
    codes = [one.exitcode for one in members if one.exitcode]
    texts = [
        "".join(path.read_text() for path in sorted(folder.glob(f"{name}.?")))
        for name in ("stdout", "stderr")
    ]
    return Done(codes[0] if codes else 0, *texts)


def together(
    folder: Path, *argv: str, processes: int = 2, elsewhere: Mapping[int, Path] | None = None
) -> Done:
    """Run the command line in several processes to their end; see `started`."""
    return ended(folder, started(folder, *argv, processes=processes, elsewhere=elsewhere))


def _run(folder: str, place: str, argv: Sequence[str], rank: int, size: int, port: int, cache: str) -> None:
    os.chdir(folder)
    given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in given.items()}
    os.environ["TWOFOLD_CACHE"] = cache  # the server has that of whoever started it
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    for number, name in ((1, "stdout"), (2, "stderr")):
        with open(f"{name}.{rank}", "wb") as file:
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.chdir(place)
    from twofold.cli import main

    code = main(list(argv))
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
