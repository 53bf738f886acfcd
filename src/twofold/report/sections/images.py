"""A few inputs with what both networks make of them."""

from __future__ import annotations

from dataclasses import dataclass

from ..data import Report, Sample, Shown


@dataclass(frozen=True)
class Bars:
    """Classes of one output; widths in percent of the largest value."""

    name: str
    rows: tuple[tuple[str, float, float, float, float], ...]


@dataclass(frozen=True)
class Card:
    """One input.

    Attributes:
        image: data URI.
        maps: outputs that are images.
        boxes: outputs that are boxes.
        classes: outputs that are classes.
    """

    image: str
    maps: tuple[Shown, ...]
    boxes: tuple[Shown, ...]
    classes: tuple[Bars, ...]


def samples(report: Report) -> tuple[Card, ...]:
    """A card per input."""
    return tuple(map(_card, report.samples))


def _card(sample: Sample) -> Card:
    return Card(
        sample.image,
        tuple(one for one in sample.outputs if one.maps),
        tuple(one for one in sample.outputs if one.boxes),
        tuple(_bars(one) for one in sample.outputs if one.classes),
    )


def _bars(shown: Shown) -> Bars:
    values = [value for _, *pair in shown.classes for value in pair]
    low, high = min(0.0, *values), max(0.0, *values)
    span = (high - low) or 1.0
    rows = tuple(
        (label, before, after, 100 * (before - low) / span, 100 * (after - low) / span)
        for label, before, after in shown.classes
    )
    return Bars(shown.name, rows)
