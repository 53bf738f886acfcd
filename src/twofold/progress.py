"""Progress of long work: bars on a terminal and in notebooks, elsewhere lines where they are asked for.

In Python the lines, and the notes that the command line prints, are messages of the log `twofold` (INFO).

Work that may last more than a second wraps its loop in `track`. Loops may nest: an inner one has a line
of its own below the outer one.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from .notebook import Bars, in_notebook
from .terminal import say, visible

T = TypeVar("T")

_local = threading.local()
_log = logging.getLogger("twofold")
#: Whether work that lasts says so by plain lines where stderr is no terminal; the command line asks for it.
LINES: ContextVar[bool] = ContextVar("lines", default=False)
#: Whether nothing is said but errors and results.
QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
#: Whether this is a thread beside the one that shows how far a stage is.
ASIDE: ContextVar[bool] = ContextVar("aside", default=False)
#: Whether every step of every stage has a line of its own, on a terminal, too.
VERBOSE: ContextVar[bool] = ContextVar("verbose", default=False)
#: Seconds until a stage has its first line, and from one to the next.
_QUIET, _PAUSE = 5.0, 60.0


class _Lines:
    """Plain lines that say how far a stage is, rarely."""

    def __init__(self, description: str, total: int | None, done: int = 0) -> None:
        self._description, self._total, self._done = description, total, done
        self._begun = time.monotonic()
        self._next = self._begun + _QUIET

    def advance(self, text: str = "") -> None:
        """One more is done."""
        self._done += 1
        now = time.monotonic()
        if now >= self._next or VERBOSE.get():
            self._next = now + _PAUSE
            far = f"{self._done}" if self._total is None else f"{self._done} of {self._total}"
            more = f", {text}" if text else ""
            _tell(f"{self._description}: {far}{more}, {now - self._begun:.0f} s")


def _spoken(items: Iterable[T], lines: _Lines) -> Iterator[T]:
    for item in items:
        yield item
        lines.advance(str(getattr(item, "name", "")) if VERBOSE.get() else "")


@contextmanager
def quiet() -> Iterator[None]:
    """Within the context nothing below an error is logged, as by libraries that talk about themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` and show how far they are.

    Args:
        items: what to iterate.
        description: the stage, in the present participle: "factoring layers".
        total: number of items where `items` has no `len`.
    """
    if ASIDE.get():
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not _bars_show():
        yield from _spoken(items, _Lines(description, total)) if listened_to() else items
        return
    shared: Any = getattr(_local, "progress", None)
    progress = shared or _new_progress()
    if shared is None:
        _local.progress = progress
        progress.start()
    task = progress.add_task(visible(description), total=total)
    try:
        for item in items:
            yield item
            progress.advance(task)
    finally:
        progress.remove_task(task)
        if shared is None:
            _local.progress = None
            progress.stop()


def note(text: str) -> None:
    """Say at once what the result will say, too, where progress is said by lines: on the command line."""
    _tell(f"note: {text}")


def warn(text: str) -> None:
    """The same of what must not be overlooked."""
    _tell(f"warning: {text}")


def listened_to() -> bool:
    """Whether anyone reads lines: on the command line, or in a log."""
    return not QUIET.get() and (LINES.get() or _log.isEnabledFor(logging.INFO))


def _tell(line: str) -> None:
    if listened_to():
        (say if LINES.get() else _log.info)(line)


def _bars_show() -> bool:
    return not VERBOSE.get() and not QUIET.get() and (sys.stderr.isatty() or in_notebook())


def _new_progress() -> Any:
    """Rich's `Progress`, or what stands for it in a notebook."""
    if not sys.stderr.isatty():
        return Bars()
    # Imported where it shows something, so that the numerics load with numpy and scipy alone.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


@contextmanager
def meter(description: str, done: int, total: int) -> Iterator[Callable[[str], None]]:
    """Show how far a work is whose steps have something to tell, such as a loss.

    Args:
        description: the stage, in the present participle.
        done: steps that are done already.
        total: number of steps.

    Yields:
        What to call after every step, with what there is to tell.
    """
    if not _bars_show():
        yield _Lines(description, total, done).advance if listened_to() else lambda text: None
        return
    with _new_progress() as progress:
        description = visible(description)
        task = progress.add_task(description, total=total, completed=done)
        _local.progress = progress  # loops inside of a step have lines below
        try:
            yield lambda text: progress.update(task, advance=1, description=visible(f"{description}, {text}"))
        finally:
            _local.progress = None
