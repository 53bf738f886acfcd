"""How it was made."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..data import Report

#: Characters from which a value is folded.
_LONG = 120


@dataclass(frozen=True)
class Fact:
    """One thing to know.

    Attributes:
        name: what it is.
        value: in words.
        details: the whole, where `value` only sums it up; else "".
    """

    name: str
    value: str
    details: str = ""


def origin(report: Report) -> tuple[Fact, ...]:
    """Everything that another needs to make it again."""
    return tuple(_all(report))


def _all(report: Report) -> Iterator[Fact]:
    made, plan = report.made, report.plan
    if made.command:
        yield Fact("command", shlex.join(made.command))
    yield Fact("twofold", made.version)
    if made.packages:
        yield Fact("packages", ", ".join(f"{name} {version}" for name, version in made.packages.items()))
    if made.machine:
        yield Fact("machine", made.machine)
    if plan is None:
        return
    for name, sha in sorted(plan.sources.items()):
        yield Fact(f"sha256 of {name}", sha)
    options = plan.options
    yield Fact(
        "budget", "what the reference's rule would spend" if options.budget is None else str(options.budget)
    )
    if options.rule is not None:
        yield Fact("rule", options.rule)
    yield Fact(
        "ranks are multiples of", f"{options.multiple}" + (f" ({options.device})" if options.device else "")
    )
    yield Fact("schemes", ", ".join(options.schemes))
    for name in ("only", "skip", "ranks"):
        if getattr(options, name):
            yield _fact(name, list(map(str, getattr(options, name))))
    yield from _calibration(plan.calibration)


def _calibration(record: Mapping[str, Any] | None) -> Iterator[Fact]:
    if record is None:
        yield Fact("calibration", "none: the weights alone")
        return
    for name, value in record.items():
        if not _empty(value):
            yield _fact(f"calibration: {name.replace('_', ' ')}", value)


def _fact(name: str, value: Any) -> Fact:
    """A value in words; of what is long the number, with everything behind it."""
    text, short = _words(value), _counted(value)
    if short == value and isinstance(value, Mapping):
        short = {key: _counted(one) for key, one in value.items()}
    return Fact(name, _words(short), "" if short == value else text)


def _counted(value: Any) -> Any:
    """How many entries there are, in the place of a long list, or of a mapping to plain values."""
    flat = isinstance(value, (list, tuple))
    if isinstance(value, Mapping):
        flat = not any(isinstance(one, (Mapping, list, tuple)) for one in value.values())
    return f"{len(value)} entries" if flat and len(_words(value)) > _LONG else value


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{str(key).replace('_', ' ')} {_words(one)}" for key, one in value.items() if not _empty(one)
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _empty(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_empty, value.values()))
    return value is None or value in ("", [], ())
