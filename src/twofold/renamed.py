"""Former names of options, keywords, fields and functions, understood for one release with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from operator import attrgetter
from typing import Any, ParamSpec, TypeVar

from .lazy import resolve

#: Options of the command line: former spelling -> today's.
OPTIONS = {"--made-up": "--synthetic", "--protect": "--targets", "--also": "--average-with"}

#: Attribute of a dataclass that holds the former names of its fields.
FORMER = "__former_names__"

_C = TypeVar("_C", bound=type)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def todays(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Replace former spellings on a command line.

    Returns:
        The words in today's spelling, and a note for each option that was replaced.
    """
    replaced, notes = [], []
    for word in words:
        name, equals, value = word.partition("=")
        today = OPTIONS.get(name)
        if today is not None:
            notes.append(f"{name} is called {today} now; the former name goes with the next release")
        replaced.append(word if today is None else f"{today}{equals}{value}")
    return replaced, notes


def former(**names: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let a function or a class take keywords by their former names, with a `FutureWarning`.

    Args:
        names: former name -> today's.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)
        def renamed(*args: _P.args, **keywords: _P.kwargs) -> _R:
            for old, new in names.items():
                if old in keywords:
                    if new in keywords:
                        raise TypeError(
                            f"{function.__qualname__}: {old!r} is the former name of {new!r}; give one"
                        )
                    warnings.warn(f"{old!r} is called {new!r} now", FutureWarning, stacklevel=2)
                    keywords[new] = keywords.pop(old)
            return function(*args, **keywords)

        return renamed

    return decorate


def former_fields(**names: str) -> Callable[[_C], _C]:
    """The same for the fields of a dataclass, which can be read by their former names, too."""

    def decorate(cls: _C) -> _C:
        setattr(cls, "__init__", former(**names)(getattr(cls, "__init__")))  # noqa: B009, B010 - mypy forbids the plain form
        for old, new in names.items():
            setattr(cls, old, former_property(old, new))
        setattr(cls, FORMER, names)
        return cls

    return decorate


def former_property(old: str, new: str) -> Any:
    """A property that reads the attribute `new` by its former name, with a `FutureWarning`."""

    def get(self: object) -> Any:
        warnings.warn(f"{type(self).__name__}.{old} is called {new} now", FutureWarning, stacklevel=2)
        return attrgetter(new)(self)

    return property(get)


def rename_members(cls: type, **names: str) -> None:
    """Give members that a user's class defines by their former names today's, with a `FutureWarning`."""
    for old, new in names.items():
        if old in vars(cls):
            warnings.warn(f"{cls.__name__}.{old} is called {new} now", FutureWarning, stacklevel=3)
            setattr(cls, new, vars(cls)[old])


def former_members(module: str, **names: str) -> Callable[[str], Any]:
    """Make the `__getattr__` of a module whose members have former names.

    Args:
        module: its full name.
        names: former name -> today's, which may be that of a member's member.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is called {names[name]} now", FutureWarning, stacklevel=2)
        return attrgetter(names[name])(sys.modules[module])

    return get


def moved(was: str, name: str, now: str) -> Callable[..., Any]:
    """A function or method that stands elsewhere now, under its former name, with a `FutureWarning`.

    Args:
        was: how it was called.
        name: what is called instead; see `lazy`.
        now: how that is written.
    """

    def former_name(*args: Any, **keywords: Any) -> Any:
        warnings.warn(f"{was} is {now} now", FutureWarning, stacklevel=2)
        return resolve(name)(*args, **keywords)

    former_name.__doc__ = f"Former name of {now}, for one release."
    return former_name
