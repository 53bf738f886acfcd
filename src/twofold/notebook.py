"""Bars in a notebook's cell: HTML that is replaced, without widgets, which not every notebook has."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from html import escape
from types import TracebackType
from typing import Any

#: Seconds from one picture to the next.
_PAUSE = 0.2
#: Kernels that show HTML: Jupyter's, and what hosted notebooks make of it.
_SHELLS = ("ZMQInteractiveShell", "Shell", "DatabricksShell")


def in_notebook() -> bool:
    """Whether this is a notebook's kernel; nothing is imported to find out."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ in _SHELLS


def _ipython() -> Any:
    from IPython import display  # noqa: PLC0415 - where it runs

    return display


@dataclass
class _Task:
    description: str
    total: int | None
    done: int
    first: int
    begun: float


class Bars:
    """What `rich.progress.Progress` is on a terminal, as far as `progress` uses it."""

    def __init__(self) -> None:
        self._tasks: dict[int, _Task] = {}
        self._handle: Any = None
        self._shown = 0.0
        self._next = 0

    def __enter__(self) -> Bars:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Take a place in the cell's output."""
        shown = _ipython()
        self._handle = shown.display(shown.HTML(""), display_id=True)

    def stop(self) -> None:
        """Leave nothing there."""
        self._tasks.clear()
        self._draw()

    def add_task(self, description: str, total: int | None, completed: int = 0) -> int:
        """Show a bar below those that are there; gives its number."""
        self._next += 1
        self._tasks[self._next] = _Task(description, total, completed, completed, time.monotonic())
        self._draw()
        return self._next

    def advance(self, task: int) -> None:
        """One more is done."""
        self.update(task, advance=1)

    def update(self, task: int, *, advance: int = 0, description: str | None = None) -> None:
        """More are done, or there is something else to say."""
        found = self._tasks[task]
        found.done += advance
        found.description = found.description if description is None else description
        if time.monotonic() >= self._shown + _PAUSE:
            self._draw()

    def remove_task(self, task: int) -> None:
        """A stage has ended."""
        del self._tasks[task]

    def _draw(self) -> None:
        self._shown = time.monotonic()
        bars = "".join(f"<div>{self._bar(task)}</div>" for task in self._tasks.values())
        self._handle.update(_ipython().HTML(bars))

    def _bar(self, task: _Task) -> str:
        seconds = self._shown - task.begun
        far, left = f"{task.done}", ""
        if task.total is not None:
            far = f"{task.done} of {task.total}"
            if task.first < task.done <= task.total:
                each = seconds / (task.done - task.first)
                left = f", about {each * (task.total - task.done):.0f} s left"
        value = "" if task.total is None else f' value="{task.done}" max="{max(task.total, 1)}"'
        return f"<progress{value}></progress> {escape(task.description)}: {far}, {seconds:.0f} s{left}"
