"""How it was made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ..data import Report


def origin(report: Report) -> tuple[tuple[str, str], ...]:
    """(what, value) of everything that another needs to make it again."""
    return tuple(_all(report))


def _all(report: Report) -> Iterator[tuple[str, str]]:
    made, plan = report.made, report.decided
    if made.command:
        yield "command", shlex.join(made.command)
    yield "twofold", made.version
    if made.packages:
        yield "packages", ", ".join(f"{name} {version}" for name, version in made.packages.items())
    if made.machine:
        yield "machine", made.machine
    if plan is None:
        return
    for name, sha in plan.sources.items():
        yield f"sha256 of {name}", sha
    options = plan.options
    yield "budget", "what the reference's rule would spend" if options.budget is None else str(options.budget)
    if options.rule is not None:
        yield "rule", options.rule
    yield "ranks are multiples of", f"{options.multiple}" + (f" ({options.device})" if options.device else "")
    yield "schemes", ", ".join(options.schemes)
    for name in ("only", "skip", "ranks"):
        if getattr(options, name):
            yield name, ", ".join(map(str, getattr(options, name)))
    yield from _calibration(plan.calibration)


def _calibration(record: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if record is None:
        yield "calibration", "none: the weights alone"
        return
    for name, value in _flat(record):
        if value not in (None, "", [], {}):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"calibration: {name}", text


def _flat(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}, {inner}", one) for inner, one in value.items())
        else:
            yield name, value
