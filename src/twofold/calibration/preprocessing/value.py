"""What is found: how pixels become values of a network's input, and where that stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..images import ImageOptions
from ..inputs import SampleShape
from ..pixels import Color
from ..presets import PRESETS
from ..runner import Runner

Array = NDArray[np.float32]

#: How far a mean of pixels 0..255 may be from ImageNet's to be taken for it.
_SAME_MEAN = 2.5


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """How pixels become values of an input.

    Attributes:
        options: mean, scale and order of channels, and what else the source says; `None` for what it does
            not.
        found: where it was found, in words.
        certain: whether somebody said it or something shows it; else it is an assumption.
        order: order of three channels that is assumed where the options name none.
        notes: what was left out.
    """

    options: ImageOptions
    found: str
    certain: bool = True
    order: Color = "rgb"
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, object]:
        """What a plan stores, as plain JSON values."""
        said = self.options.to_json()
        values = {name: said[name] for name in ("color", "mean", "scale")}
        return {**values, "likely_color": self.order, "found": self.found, "assumed": not self.certain}

    def __str__(self) -> str:
        said = self.record()
        parts = [
            f"{name} {_text(said[name])}" for name in ("color", "mean", "scale") if said[name] is not None
        ]
        return f"{', '.join(parts) or 'pixels 0..255'}: {'' if self.certain else 'assumed, '}{self.found}"


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"({', '.join(f'{one:.5g}' for one in value)})"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, eq=False)
class Subject:
    """One input of a network, as sources look at it.

    Attributes:
        name: of the input.
        shape: of a sample.
        runner: runs the network.
        alone: whether it is the network's only input.
        images: (N, C, H, W) pixels 0..255, RGB where there are three channels, that are like what the
            network gets; None where there can be none.
    """

    name: str
    shape: SampleShape
    runner: Runner
    alone: bool
    images: Callable[[], Array | None]

    @property
    def channels(self) -> int:
        """Number of channels; 3 where any number will do."""
        return self.shape[0] if self.shape and self.shape[0] else 3


#: Looks for a preprocessing in one place; None where that says nothing.
Look = Callable[[Subject], Preprocessing | None]


def preset(name: str, channels: int) -> ImageOptions:
    """A preset as options, without its order of channels where there are not three."""
    return ImageOptions(preset=name).settled(channels)  # type: ignore[arg-type]


def values(mean: Any, scale: Any, color: Color | None = None) -> ImageOptions:
    """Options of a mean and a scale per channel; the order of channels, too, where the mean shows it."""
    mean, scale = (tuple(float(one) for one in np.atleast_1d(v)) for v in (mean, scale))
    return ImageOptions(mean=mean, scale=scale, color=color or order_of(mean))


def order_of(mean: Any) -> Color | None:
    """The order of channels in which a mean is ImageNet's; None where it is another."""
    rgb = np.array(PRESETS["imagenet"].mean)
    mean = np.asarray(mean, np.float64).ravel()
    if mean.shape != rgb.shape:
        return None
    near = {color: abs(mean - one).max() < _SAME_MEAN for color, one in (("rgb", rgb), ("bgr", rgb[::-1]))}
    return next((color for color in ("rgb", "bgr") if near[color]), None)
