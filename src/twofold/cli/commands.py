"""The commands: where each stands, and one line about it. What one needs is imported when it is asked for.

The first page of help, the version and a wrong command line need none of it, and answer at once.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer

from ..start import begun
from ..system import take_room
from .groups import Command, spread

#: The command line that runs, word by word.
COMMAND: ContextVar[tuple[str, ...]] = ContextVar("command", default=())


@dataclass(frozen=True)
class Entry:
    """One command.

    Attributes:
        panel: its group on the first page of help.
        module: in this package.
        about: one line; the command's own help says more.
    """

    panel: str
    module: str
    about: str


ENTRIES = {
    "inspect": Entry("Decompose", "make", "List every convolution: shape, schemes, cost at each rank."),
    "decompose": Entry("Decompose", "make", "Write a smaller net, its weights, and the plan."),
    "apply": Entry("Decompose", "make", "Apply a plan to its net, or to the training net."),
    "compare": Entry("Check", "check", "Compare two models on the same inputs: error, accuracy, cost, time."),
    "report": Entry("Check", "report", "Make report.html again from the JSON beside it."),
    "recover": Entry(
        "Improve", "improve", "Train the decomposed net without labels, taught by the original."
    ),
    "finetune": Entry("Improve", "improve", "Train a Caffe net from its own solver."),
    "export": Entry("Deploy", "deploy", "Write a Caffe net as ONNX, checked in ONNX Runtime."),
    "quantize": Entry("Deploy", "deploy", "Write a net in int8, as ONNX, and measure what that costs."),
    "latency": Entry("Deploy", "times", "Layer times: those measured, and models to time on a device."),
    "cache": Entry("Help", "cache", "What earlier runs have left for later ones: list it, or remove it."),
    "doctor": Entry("Help", "doctor", "List what is installed, and what each missing extra brings."),
}


class Commands(MutableMapping[str, Any]):
    """The parsers of all commands by name, each made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        take_room()
        if name not in self._made:
            self._made[name] = _parser(name, ENTRIES[name])
            begun()  # what takes its time is imported
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands are not taken away")

    def __iter__(self) -> Iterator[str]:
        return iter(ENTRIES)

    def __len__(self) -> int:
        return len(ENTRIES)


def _parser(name: str, entry: Entry) -> Any:
    module = import_module(f".{entry.module}", __package__)
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(rich_markup_mode="markdown", add_completion=False)
        app.command(name, cls=Command)(spread(getattr(module, name)))
    command = typer.main.get_command(app)
    command.name = name
    return command
