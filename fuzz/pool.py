"""Reads attacks in processes of their own, and keeps account: what was uncaught, what died, time and memory.

A process takes a batch of attacks of one reader. It is forked, so that imports cost nothing, and writes down
before each attack which one it is, so that the attack that ends a process is known.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import pickle
import resource
import shutil
import signal
import struct
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from twofold.errors import TwofoldError

from .readers import READERS, Reader
from .table import Row

#: Seconds of processor time that one attack may take, and of waiting before its process is ended.
SLOW, STUCK = 10.0, 900.0
#: Bytes of memory that one attack may take, beside ten times its own size.
MEMORY = 2 << 30


@dataclass
class Finding:
    """An attack that did harm.

    Attributes:
        reader: whose.
        number: of the attack.
        what: the traceback, or what else it was.
    """

    reader: str
    number: int
    what: str


@dataclass
class Batch:
    """What a process says of its attacks."""

    row: Row
    findings: list[Finding] = field(default_factory=list)


class _TooSlow(BaseException):
    """Not caught by anything that reads."""


def work(name: str, numbers: range, current: mmap.mmap) -> Batch:
    """Read attacks in this process."""
    reader, row = READERS[name], Row(name)
    batch = Batch(row)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _too_slow)
    for number in numbers:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            attack = reader.attack(number)
            path = reader.place(folder)
            path.write_bytes(attack)
            current[:8] = struct.pack("<q", number)
            _one(reader, number, path, len(attack), batch)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return batch


def _one(reader: Reader, number: int, path: Path, size: int, batch: Batch) -> None:
    row = batch.row
    before = _reset_peak()
    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SLOW)
    try:
        reader.read(path)
        row.accepted += 1
    except TwofoldError as error:
        row.rejected += 1
        if not str(error):
            batch.findings.append(Finding(reader.name, number, "a message without words"))
    except _TooSlow:
        row.slow += 1
        batch.findings.append(Finding(reader.name, number, f"more than {SLOW:g} s"))
    except Exception:  # whatever it is, it is a finding
        row.uncaught += 1
        batch.findings.append(Finding(reader.name, number, traceback.format_exc()))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    row.inputs += 1
    row.seconds = max(row.seconds, time.process_time() - began)
    taken = max(0, _peak() - before)
    row.peak = max(row.peak, taken)
    if taken > max(10 * size, MEMORY):
        row.greedy += 1
        batch.findings.append(Finding(reader.name, number, f"{taken >> 20} MB for {size} bytes"))


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise _TooSlow


def _reset_peak() -> int:
    """Begin to measure the peak anew; gives what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak of the process counts
        return _peak()
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _status(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(key)), 0)


@dataclass
class Worker:
    """A forked process, and the pipe it speaks through."""

    name: str
    numbers: range
    process: int
    pipe: int
    current: mmap.mmap
    said: bytes = b""
    began: float = field(default_factory=time.monotonic)
    last: int = -1
    last_seen: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, name: str, numbers: range) -> Worker:
        """Fork one."""
        current = mmap.mmap(-1, 8)
        current[:8] = struct.pack("<q", numbers.start)
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            code = 1
            try:
                faulthandler.disable()
                with open(os.devnull, "w") as null:
                    os.dup2(null.fileno(), 1)
                    os.dup2(null.fileno(), 2)
                _send(writing, work(name, numbers, current))
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        os.set_blocking(reading, False)
        return cls(name, numbers, process, reading, current)

    def poll(self) -> Batch | None:
        """What it said, once it has ended; None while it works."""
        self._read()
        (number,) = struct.unpack("<q", self.current[:8])
        if number != self.last:
            self.last, self.last_seen = number, time.monotonic()
        elif time.monotonic() - self.last_seen > STUCK:
            os.kill(self.process, signal.SIGKILL)
        ended, status = os.waitpid(self.process, os.WNOHANG)
        if not ended:
            return None
        self._read()
        os.close(self.pipe)
        if status == 0 and self.said:
            batch: Batch = pickle.loads(self.said)
            return batch
        row = Row(self.name, inputs=number - self.numbers.start + 1, killed=1)
        what = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"ended, {status}"
        return Batch(row, [Finding(self.name, number, what)])

    def rest(self) -> range:
        """Attacks behind the one that ended it."""
        return range(self.last + 1, self.numbers.stop)

    def _read(self) -> None:
        try:
            while piece := os.read(self.pipe, 1 << 20):
                self.said += piece
        except BlockingIOError:
            pass


def _send(pipe: int, value: Any) -> None:
    data = pickle.dumps(value)
    while data:
        data = data[os.write(pipe, data) :]
