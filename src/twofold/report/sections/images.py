"""A few inputs with what both networks make of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...calibration.detections import unmatched
from ..data import Box, Report, Sample, Shown


@dataclass(frozen=True)
class Bars:
    """Classes of one output; widths in percent of the largest value."""

    name: str
    rows: tuple[tuple[str, float, float, float, float], ...]


@dataclass(frozen=True)
class Boxed:
    """An image with boxes.

    Attributes:
        name: of the output.
        title: what they are, in words.
        boxes: each with how it is drawn: "was" or "is".
    """

    name: str
    title: str
    boxes: tuple[tuple[Box, str], ...]


@dataclass(frozen=True)
class Card:
    """One input.

    Attributes:
        image: data URI.
        maps: outputs that are images.
        boxes: outputs that are boxes: before, after, and the difference.
        classes: outputs that are classes.
    """

    image: str
    maps: tuple[Shown, ...]
    boxes: tuple[Boxed, ...]
    classes: tuple[Bars, ...]


def samples(report: Report) -> tuple[Card, ...]:
    """A card per input."""
    return tuple(map(_card, report.samples))


def _card(sample: Sample) -> Card:
    return Card(
        sample.image,
        tuple(one for one in sample.outputs if one.maps),
        tuple(found for one in sample.outputs if one.boxes for found in _boxed(one)),
        tuple(_bars(one) for one in sample.outputs if one.classes),
    )


def _boxed(shown: Shown) -> Iterator[Boxed]:
    """Boxes before, after, and those that only one of both nets finds."""
    before, after = shown.boxes
    for title, boxes, drawn in (("before", before, "was"), ("after", after, "is")):
        many = "box" if len(boxes) == 1 else "boxes"
        yield Boxed(shown.name, f"{title}: {len(boxes)} {many}", tuple((one, drawn) for one in boxes))
    labels = sorted({one.label for one in (*before, *after)})
    lost, new = unmatched(_rows(before, labels), _rows(after, labels))
    apart = *((before[i], "was") for i in lost), *((after[i], "is") for i in new)
    yield Boxed(shown.name, f"difference: {len(lost)} lost, {len(new)} new", apart)


def _rows(boxes: Sequence[Box], labels: Sequence[str]) -> NDArray[np.float32]:
    rows = [
        (0, labels.index(one.label), one.score, one.left, one.top, one.right, one.bottom) for one in boxes
    ]
    return np.array(rows, np.float32).reshape(-1, 7)


def _bars(shown: Shown) -> Bars:
    values = [value for _, *pair in shown.classes for value in pair]
    low, high = min(0.0, *values), max(0.0, *values)
    span = (high - low) or 1.0
    rows = tuple(
        (label, before, after, 100 * (before - low) / span, 100 * (after - low) / span)
        for label, before, after in shown.classes
    )
    return Bars(shown.name, rows)
