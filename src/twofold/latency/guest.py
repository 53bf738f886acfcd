"""A process in which a library converts and runs models.

Converters print as they like, and native code dies of a signal where Python raises: here both stay in the
process of the library. Requests and answers are pickled tuples over its stdin and stdout; what anything else
writes there goes to a log, whose last line explains an early end.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..terminal import one_line

Arrays = dict[str, NDArray[Any]]
#: Runs a model once, to its end.
Forward = Callable[[], object]
#: Values of the outputs of the last run, by the names that the ONNX file has.
Answers = Callable[[], Arrays]


class Engine(Protocol):
    """What a library does in the process of its own.

    Models come as ONNX files; those of PyTorch, which no file holds, are pickled.
    """

    def convert(self, onnx: Path) -> None:
        """Write the library's own files beside an ONNX file, by its name; nothing where it reads ONNX."""

    def open(
        self, onnx: Path, inputs: Arrays, outputs: tuple[str, ...], threads: int
    ) -> tuple[Forward, Answers]:
        """Read what `convert` wrote.

        Args:
            onnx: the ONNX file; all its inputs have a size.
            inputs: their values.
            outputs: names of its outputs.
            threads: to use.
        """


class Guest:
    """The process, as seen from outside.

    Args:
        engine: full name of the module whose `Engine` answers.
        label: the library, for messages.
        folder: for its log; it works there.
    """

    def __init__(self, engine: str, label: str, folder: Path) -> None:
        self._label = label
        self._log = folder / f"{engine.rpartition('.')[2]}.log"
        self._read = 0
        # What can be imported here can be imported there, and nothing that lies about in a working folder.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
            "PYTHONSAFEPATH": "1",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, engine],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=environment,
            )  # fmt: skip

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Call a method there.

        Raises:
            ModelError: it failed, or the process ended.
        """
        self._read = self._log.stat().st_size
        stdin, stdout = self._pipes
        try:
            pickle.dump((method, arguments), stdin)
            stdin.flush()
            done, value = pickle.load(stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise ModelError(f"{self._label} {self._end()} while it had to {method} the model") from error
        if not done:
            raise ModelError(f"{self._label} cannot {method} the model: {value}{self._last_words()}")
        return value

    @property
    def has_ended(self) -> bool:
        """Whether the process has."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for pipe in self._pipes:
            with suppress(OSError):  # a request that nobody reads any more
                pipe.close()
        self._process.wait()

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None, "Bug: no way there"
        assert stdout is not None, "Bug: no way back"
        return stdin, stdout

    def _end(self) -> str:
        """How the process ended."""
        self._process.kill()  # does nothing to one that has ended
        code = self._process.wait()
        if code < 0:
            return f"crashed ({signal.Signals(-code).name}{self._last_words()})"
        return f"ended (exit code {code}{self._last_words()})"

    def _last_words(self) -> str:
        """The last line of the log, if it has come with the last request."""
        text = self._log.read_bytes()[self._read :].decode(errors="replace")
        said = [one_line(line) for line in text.split("\n") if line.strip()]
        return f"; it wrote: {said[-1][:300]}" if said else ""


@dataclass(frozen=True, eq=False)
class GuestRun:
    """A model in a process of its own, which also times it: the way there and back does not count.

    Attributes:
        guest: the process.
        number: of the model in it.
        path: the file that it was opened from.
    """

    guest: Guest
    number: int
    path: Path

    def __call__(self) -> object:
        """Run it."""
        return self.guest("seconds", self.number, 1)

    def seconds(self, times: int) -> float:
        """See `clock.TimesItself`."""
        seconds: float = self.guest("seconds", self.number, times)
        return seconds


class Host:
    """The process, from inside: models by number.

    Args:
        engine: converts and opens them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._runs: list[tuple[Forward, Answers]] = []

    def convert(self, onnx: Path) -> None:
        """See `Engine.convert`."""
        self._engine.convert(onnx)

    def open(self, onnx: Path, inputs: Arrays, outputs: tuple[str, ...], threads: int) -> int:
        """Open a model and give its number."""
        self._runs.append(self._engine.open(onnx, inputs, outputs, threads))
        return len(self._runs) - 1

    def forget(self) -> None:
        """Close all models."""
        self._runs.clear()

    def run(self, number: int) -> Arrays:
        """Run a model once and give its outputs."""
        forward, answers = self._runs[number]
        forward()
        return {name: np.ascontiguousarray(value) for name, value in answers().items()}

    def seconds(self, number: int, times: int) -> float:
        """Seconds of a run, as the mean of so many."""
        forward, _ = self._runs[number]
        start = time.perf_counter()
        for _ in range(times):
            forward()
        return (time.perf_counter() - start) / times


def serve(engine: str) -> None:
    """Answer requests until there are no more."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked for the work ends it
    host: Any = None
    while True:
        try:
            method, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            host = host or Host(import_module(engine).Engine())
            reply = (True, getattr(host, method)(*arguments))
        except Exception as error:  # whatever a library raises is told to who asked
            reply = (False, one_line(str(error)) or type(error).__name__)
        pickle.dump(reply, answer)
        answer.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
