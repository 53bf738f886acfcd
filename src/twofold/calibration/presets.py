"""Preprocessings that have a name: what frameworks and model collections do to pixels 0..255."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from .pixels import Color

PresetName = Literal["imagenet", "caffe", "zero-one", "minus-one-one"]


@dataclass(frozen=True)
class Preset:
    """`(pixel - mean) * scale`, with pixels 0..255.

    Attributes:
        color: order of three channels.
        mean: for three channels in the order of `color`.
        scale: likewise.
        other: (mean, scale) of every channel where there are not three.
    """

    color: Color
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    other: tuple[float, float]

    def values(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and scale per channel."""
        if channels == len(self.mean):
            return self.mean, self.scale
        return (self.other[0],) * channels, (self.other[1],) * channels

    def __str__(self) -> str:
        mean, scale = (", ".join(f"{one:g}" for one in _shortest(v)) for v in (self.mean, self.scale))
        minus = f"pixel 0..255 minus ({mean})" if any(self.mean) else "pixel 0..255"
        times = f", times ({scale})" if set(self.scale) != {1.0} else ""
        return f"{self.color.upper()}, {minus}{times}"


def _shortest(values: tuple[float, ...]) -> tuple[float, ...]:
    return values[:1] if len(set(values)) == 1 else values


_IMAGENET_STD = (58.395, 57.12, 57.375)
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # torchvision's and timm's: 255 times (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225).
        "imagenet": Preset(
            "rgb", (123.675, 116.28, 103.53), tuple(1 / std for std in _IMAGENET_STD), (114.495, 1 / 57.63)
        ),
        "caffe": Preset("bgr", (104.0, 117.0, 123.0), (1.0,) * 3, (0.0, 1.0)),
        "zero-one": Preset("rgb", (0.0,) * 3, (1 / 255,) * 3, (0.0, 1 / 255)),
        "minus-one-one": Preset("rgb", (127.5,) * 3, (1 / 127.5,) * 3, (127.5, 1 / 127.5)),
    }
)
