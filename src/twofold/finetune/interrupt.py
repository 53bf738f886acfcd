"""Ctrl-C during a training: the iteration is finished, and a snapshot written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether the training was asked to stop.

    Attributes:
        signal: the number of the signal that asked, None as long as none has.
    """

    signal: int | None = None


@contextmanager
def stoppable(report: Callable[[str], None]) -> Iterator[Stop]:
    """Within the context SIGINT and SIGTERM set the flag; a second one ends the process as usual."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.signal = number
        for one, handler in before.items():
            signal.signal(one, handler)
        report("stopping behind this iteration; once more to stop at once, without a snapshot")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
