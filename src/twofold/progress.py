"""Progress of long work on stderr; silent when stderr is not a terminal.

Work that may last more than a second wraps its loop in `track`. Loops may nest: an inner one has a line
of its own below the outer one.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

_local = threading.local()


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
    if not sys.stderr.isatty():
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    shared: Progress | None = getattr(_local, "progress", None)
    progress = shared or _new_progress()
    if shared is None:
        _local.progress = progress
        progress.start()
    task = progress.add_task(description, total=total)
    try:
        for item in items:
            yield item
            progress.advance(task)
    finally:
        progress.remove_task(task)
        if shared is None:
            _local.progress = None
            progress.stop()


def _new_progress() -> Progress:
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
        TextColumn("{task.description}"),
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
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    with _new_progress() as progress:
        task = progress.add_task(description, total=total, completed=done)
        _local.progress = progress  # loops inside of a step have lines below
        try:
            yield lambda text: progress.update(task, advance=1, description=f"{description}, {text}")
        finally:
            _local.progress = None
