"""The course of a training."""

from __future__ import annotations

from markupsafe import Markup

from ..data import Report, TrainingHistory
from ..svg import Axes, Line, chart


def charts(report: Report) -> tuple[tuple[str, Markup, Markup], ...]:
    """(heading, chart, chart for a phone) of the loss, each test score in float32 and int8, and the rate."""
    found = report.training
    if found is None:
        return ()
    named = {"loss in int8" if found.int8 else "loss": found.losses}
    for name, points in found.tests.items():
        named[name] = points
        if name in found.int8_tests:
            named[f"{name}, in int8"] = found.int8_tests[name]
    named["learning rate"] = found.rates
    return tuple((name, *_charts(name, points, found.counted)) for name, points in named.items() if points)


def _charts(name: str, points: TrainingHistory, counted: str) -> tuple[Markup, Markup]:
    tips = tuple(f"{counted} {at}\n{name} {value:.5g}" for at, value in points)
    line = Line(tuple((float(at), value) for at, value in points), "curve", tips)
    wide, narrow = (
        chart(Axes(*size, counted, name, log=False), [line], [], f"{name} by {counted}")
        for size in ((720, 260), (340, 220))
    )
    return wide, narrow
