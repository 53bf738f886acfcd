"""Line charts as inline SVG: axes, lines, and points that tell what they are when they are pointed at.

Axes begin and end beside the data, with room, so that no point lies on an axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

#: A point (x, y).
Point = tuple[float, float]
#: Values of lines below this fraction of the largest lie off a logarithmic chart: they would squeeze others.
_FLOOR = 1e-4
#: Room beside the data, as a fraction of their range.
_ROOM = 0.05


@dataclass(frozen=True)
class Line:
    """A line, or points alone.

    Attributes:
        points: x rising.
        css: class of the line and its dots.
        tips: what each point says; none for a line without dots.
        budgets: for each point, what is put into the command to copy.
    """

    points: tuple[Point, ...]
    css: str
    tips: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mark:
    """One point that stands out.

    Attributes:
        at: where.
        css: its class.
        tip: what it says.
        label: written beside it: above to the right, where a falling curve leaves room for what lies over it.
        below: written below to the left instead, for a point on the curve.
        budget: what is put into the command to copy.
    """

    at: Point
    css: str
    tip: str
    label: str = ""
    budget: str = ""
    below: bool = False


@dataclass(frozen=True)
class Axes:
    """Size and titles of a chart; `log` is the vertical axis."""

    width: int
    height: int
    x_label: str
    y_label: str
    log: bool = True
    left: int = 64
    bottom: int = 40
    top: int = 14
    right: int = 16
    ticks: int = 6

    def can_show(self, y: float) -> bool:
        """Whether a value has a place on the vertical axis; 0 has none on a logarithmic one."""
        return y > 0 or not self.log


def tip(text: str, *, focus: bool = False) -> Markup:
    """The attributes that make something tell `text` when it is pointed at, or can be focused, too."""
    spoken = Markup(' tabindex="0" aria-label="{}"').format(text) if focus else ""
    return Markup('data-tip="{}"{}').format(text, spoken)


def arrow(text: str) -> str:
    """A shape as people write it: 64→128 3x3."""
    return text.replace("->", "→")


def number(value: float) -> str:
    """A short number for an axis."""
    return f"{value:.10g}" if 1e-3 <= abs(value) < 1e5 or not value else f"{value:.0e}".replace("e-0", "e-")


def value(value: float) -> str:
    """A value of an output, in the same places as its neighbours."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round values between two, about so many."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / max(count, 1)
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.7)
    first = math.ceil(low / step - 1e-9)
    # Significant digits: errors that are rounding alone vanish in any number of decimals.
    return [float(f"{i * step:.12g}") for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two; 2 and 5 as well where there are few, and round values where fewer."""
    found: list[float] = []
    for factors in ((1,), (1, 2, 5)):
        decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        found = [f * 10.0**d for d in decades for f in factors if low * 0.999 <= f * 10.0**d <= high * 1.001]
        if len(found) >= 3:
            return found
    return nice_ticks(low, high, 4)


@dataclass(frozen=True)
class _Scale:
    axes: Axes
    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def of(cls, axes: Axes, lines: Sequence[Line], marks: Sequence[Mark]) -> _Scale:
        on_lines = [point for line in lines for point in line.points]
        of_marks = [mark.at for mark in marks]
        if axes.log:
            highest = max((y for _, y in (*on_lines, *of_marks)), default=1.0)
            on_lines = [(x, y) for x, y in on_lines if axes.can_show(y) and y >= highest * _FLOOR]
        points = (*on_lines, *of_marks)
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return cls(axes, _with_room(xs, log=False), _with_room(ys, log=axes.log))

    def px(self, x: float) -> float:
        room = self.axes.width - self.axes.left - self.axes.right
        return self.axes.left + (x - self.x[0]) / (self.x[1] - self.x[0]) * room

    def py(self, y: float) -> float:
        room = self.axes.height - self.axes.top - self.axes.bottom
        if self.axes.log:
            share = math.log(y / self.y[0]) / math.log(self.y[1] / self.y[0])
        else:
            share = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.axes.top + (1 - share) * room

    def inside(self, y: float) -> bool:
        return self.y[0] <= y


def _with_room(values: Sequence[float], *, log: bool) -> tuple[float, float]:
    """From a little below the least to a little above the largest."""
    low, high = (min(values), max(values)) if values else (1.0, 1.0)
    if log:
        room = (high / low) ** _ROOM if high > low else 2.0
        return low / room, high * room
    room = _ROOM * (high - low) if high > low else 1.0
    return low - room, high + room


def chart(axes: Axes, lines: Sequence[Line], marks: Sequence[Mark], title: str) -> Markup:
    """Draw a chart.

    Args:
        axes: its size and labels.
        lines: from back to front.
        marks: on top of them.
        title: what it shows, for readers who do not see it.
    """
    marks = [mark for mark in marks if axes.can_show(mark.at[1])]
    scale = _Scale.of(axes, lines, marks)
    inner = [*_grid(scale), *(part for line in lines for part in _line(scale, line))]
    inner += [_mark(scale, mark) for mark in marks]
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        axes.width, axes.height, title, Markup("").join(inner)
    )


def _grid(scale: _Scale) -> list[Markup]:
    axes, parts = scale.axes, []
    base, right = axes.height - axes.bottom, axes.width - axes.right
    for x in nice_ticks(*scale.x, axes.ticks):
        at = round(scale.px(x), 1)
        parts.append(Markup('<path class="grid" d="M{0} {1}V{2}"/>').format(at, axes.top, base))
        parts.append(
            Markup('<text class="tick mid" x="{}" y="{}">{}</text>').format(at, base + 15, number(x))
        )
    for y in log_ticks(*scale.y) if axes.log else nice_ticks(*scale.y, 4):
        at = round(scale.py(y), 1)
        parts.append(Markup('<path class="grid" d="M{0} {1}H{2}"/>').format(axes.left, at, right))
        parts.append(
            Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(axes.left - 6, at + 4, number(y))
        )
    across, up = (axes.left + right) / 2, (axes.top + base) / 2
    parts.append(
        Markup('<text class="label mid" x="{}" y="{}">{}</text>').format(
            across, axes.height - 5, axes.x_label
        )
    )
    parts.append(
        Markup('<text class="label mid" transform="translate(13 {}) rotate(-90)">{}</text>').format(
            up, axes.y_label
        )
    )
    return parts


def _line(scale: _Scale, line: Line) -> list[Markup]:
    shown = [(x, y) for x, y in line.points if scale.inside(y)]
    path = " ".join(f"{scale.px(x):.1f},{scale.py(y):.1f}" for x, y in shown)
    parts = [Markup('<polyline class="line {}" points="{}"/>').format(line.css, path)]
    budgets = line.budgets or ("",) * len(line.tips)
    dots = [
        _dot(scale, point, text, budget)
        for point, text, budget in zip(line.points, line.tips, budgets, strict=False)
        if scale.inside(point[1])
    ]
    return [*parts, Markup('<g class="dots {}">{}</g>').format(line.css, Markup("").join(dots))]


def _dot(scale: _Scale, at: Point, text: str, budget: str) -> Markup:
    picked = Markup(' data-budget="{}"').format(budget) if budget else ""
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" {}{}/>').format(
        scale.px(at[0]), scale.py(at[1]), 3 if budget else 2, tip(text, focus=bool(budget)), picked
    )


def _mark(scale: _Scale, mark: Mark) -> Markup:
    x, y = scale.px(mark.at[0]), scale.py(mark.at[1])
    budget = Markup(' data-budget="{}"').format(mark.budget) if mark.budget else ""
    dot = Markup('<circle class="mark {}" cx="{:.1f}" cy="{:.1f}" r="6" {}{}/>').format(
        mark.css, x, y, tip(mark.tip, focus=True), budget
    )
    if not mark.label:
        return dot
    width = scale.axes.width
    end = x > 0.3 * width if mark.below else x > 0.65 * width
    below = mark.below and end  # at the left end the curve goes down there
    return dot + Markup('<text class="name {}" x="{:.1f}" y="{:.1f}">{}</text>').format(
        "end" if end else "", x + (-10 if end else 10), y + (18 if below else -9), mark.label
    )
