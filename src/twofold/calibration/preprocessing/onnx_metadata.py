"""What an ONNX file's `metadata_props` say.

Sources: ONNX's docs/MetadataProps.md (Image.BitmapPixelFormat, Image.NominalPixelRange); what Ultralytics'
exporter writes; keys for mean and standard deviation, and image processors' JSON, as exporters keep them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..images import ImageOptions
from ..pixels import Color
from .description import options_of
from .value import Preprocessing, Subject, values

_RANGES = {
    "nominalrange_0_255": (0.0, 1.0),
    "normalized_0_1": (0.0, 1 / 255),
    "normalized_1_1": (127.5, 1 / 127.5),
}
_ORDERS: dict[str, Color] = {"bgr": "bgr", "bgra": "bgr", "rgb": "rgb", "rgba": "rgb"}
_MOMENTS = (
    ("mean", "std"),
    ("image_mean", "image_std"),
    ("input_mean", "input_std"),
    ("pixel_mean", "pixel_std"),
)
_COLORS = ("Image.BitmapPixelFormat", "color_space", "color", "channel_order")


def of_onnx(subject: Subject) -> Preprocessing | None:
    """Read the metadata of a file."""
    described = subject.runner.described
    if not isinstance(described, Mapping):
        return None
    said = {str(name): str(value) for name, value in described.items()}
    options, names = _options(said)
    if options is None:
        return None
    return Preprocessing(options, f"the file's metadata ({', '.join(names)})")


def _options(said: Mapping[str, str]) -> tuple[ImageOptions | None, tuple[str, ...]]:
    color, where = _color(said)
    limits = _RANGES.get(said.get("Image.NominalPixelRange", "").lower())
    if limits is not None:
        return values(*limits, color), ("Image.NominalPixelRange", *where)
    for names in _MOMENTS:
        mean, std = (_numbers(said.get(name, "")) for name in names)
        if mean and std and all(std):
            unit = 1.0 if max(map(abs, (*mean, *std))) > 2 else 1 / 255  # of pixels 0..255, or of 0..1
            found = values([one / unit for one in mean], [unit / one for one in std], color)
            return found, (*names, *where)
    if said.get("author") == "Ultralytics" and "stride" in said:
        return values(0.0, 1 / 255, color or "rgb"), ("author Ultralytics", *where)
    for name, text in said.items():
        if "image_mean" in text and (options := options_of(_json(text))) is not None:
            return options, (name,)
    return None, ()


def _color(said: Mapping[str, str]) -> tuple[Color | None, tuple[str, ...]]:
    for name in _COLORS:
        order = _ORDERS.get(re.sub("[^a-z]", "", said.get(name, "").lower()))
        if order is not None:
            return order, (name,)
    return None, ()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _numbers(text: str) -> list[float]:
    """Numbers of a list in any brackets, apart by commas or blanks; none where something else is there."""
    words = [word for word in re.split(r"[\s,;\[\]()]+", text) if word]
    try:
        return [float(word) for word in words]
    except ValueError:
        return []
