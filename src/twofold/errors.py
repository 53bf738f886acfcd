"""What can go wrong, as few kinds. Every message says where, what was found, what is allowed, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_offered: ContextVar[Collection[str] | None] = ContextVar("offered", default=None)
_lacking: ContextVar[frozenset[str]] = ContextVar("lacking", default=frozenset())
_on_command_line: ContextVar[bool] = ContextVar("on_command_line", default=False)


@contextmanager
def command_line() -> Iterator[None]:
    """Within the context messages name options as the command line spells them."""
    before = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(before)


def option(python: str, command: str | None = None) -> str:
    """Name an option in a message, as whoever reads it would write it.

    Args:
        python: in a call.
        command: on the command line; by default the same name, so `--no-data` for `no_data=True`.
    """
    if not _on_command_line.get():
        return python
    return command or "--" + python.removesuffix("=True").replace("_", "-")


@contextmanager
def lacking(*names: str) -> Iterator[None]:
    """Within the context messages do not offer these options, which what runs does not have."""
    before = _lacking.set(_lacking.get() | {name.replace("-", "_") for name in names})
    try:
        yield
    finally:
        _lacking.reset(before)


@contextmanager
def offering(options: Collection[str] | None) -> Iterator[None]:
    """Within the context messages offer only these options, the command's; None for any."""
    before = _offered.set(options)
    try:
        yield
    finally:
        _offered.reset(before)


def without(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Say of a public function which options of others it does not have; see `lacking`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with lacking(*names):
                return function(*args, **kwargs)

        return called

    return decorate


def remedy(text: str, python: str, command: str | None = None) -> str:
    """A part of a message that offers an option; "" where what runs does not have it.

    Args:
        text: the part, with {} where the option stands.
        python: see `option`.
        command: see `option`.
    """
    name = re.split("[^a-z_]", python, maxsplit=1)[0]
    spelled, offered = option(python, command), _offered.get()
    there = offered is None or spelled.split()[0] in offered
    return text.format(spelled) if there and name not in _lacking.get() else ""


def shape_option(name: str) -> str:
    """The option that says the shape of an input."""
    return option(f"inputs={{{name!r}: (1, 3, 224, 224)}}", f"--input {name}=1x3x224x224")


class TwofoldError(Exception):
    """Base of every error that twofold raises on purpose; the command line prints it as one line."""


class FormatError(TwofoldError):
    """A file is not what it should be: bad syntax, truncated, another format."""


class ModelError(TwofoldError):
    """The parts of a model do not fit each other: definition and weights, shapes, names."""


class PlanError(TwofoldError):
    """A plan cannot be made or applied: a budget out of reach, an unknown layer, another model."""


class InputError(TwofoldError):
    """Calibration inputs are missing, unreadable or of the wrong shape."""


class OutputError(TwofoldError):
    """Results cannot be written: files are in the way, the disk is full, the folder is read-only."""


class OptionError(TwofoldError):
    """An option has a value that is not allowed."""


class UsageError(OptionError):
    """The text of an option cannot be read; a command ends with exit code 2."""


class RankError(TwofoldError):
    """Another of the processes that `torchrun` started has failed, or does something else."""


class LostError(Exception):
    """Another process is gone; `ranks` finds out why, and raises a `RankError`."""


class MissingExtraError(TwofoldError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs {package}, which is not installed: pip install 'twofold[{extra}]'")
