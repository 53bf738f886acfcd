"""Ctrl-C while the command line starts: imports take a second, and nothing has begun that must be undone."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

_LINE = b"twofold: interrupted; nothing was begun\n"


def guard() -> None:
    """End the process by one line where Ctrl-C hits it during imports; does nothing within other programs."""
    untouched = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if untouched and _is_command() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _leave)


def begun() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_command() -> bool:
    """Whether this process is `twofold` or `python -m twofold`."""
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    return name == "twofold" or (name == "-m" and "twofold" in sys.orig_argv)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, _LINE)
    os._exit(130)
