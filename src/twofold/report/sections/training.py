"""The course of a training."""

from __future__ import annotations

from markupsafe import Markup

from ..data import Report
from ..svg import Axes, Line, chart


def charts(report: Report) -> tuple[tuple[str, Markup], ...]:
    """(heading, chart) of the loss and of each test score."""
    found = report.training
    if found is None:
        return ()
    named = {"loss": found.losses, **found.tests}
    return tuple((name, _chart(name, points)) for name, points in named.items() if points)


def _chart(name: str, points: tuple[tuple[int, float], ...]) -> Markup:
    tips = tuple(f"iteration {at}\n{name} {value:.5g}" for at, value in points)
    line = Line(tuple((float(at), value) for at, value in points), "curve", tips)
    return chart(Axes(720, 260, "iteration", name, log=False, left=64), [line], [], f"{name} by iteration")
