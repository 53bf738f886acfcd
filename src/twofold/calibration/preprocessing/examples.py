"""What example inputs show by their mean, spread and range.

Images have a mean near the middle of the range and a spread of a quarter of it, wherever they come from;
so each known preprocessing predicts the values of its inputs, and the one that fits is taken. Noise and
constants are what people put where an input is only needed for its size: the first is a hint, the second
says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..images import ImageOptions
from ..presets import PRESETS
from .value import Preprocessing, Subject, preset, values

#: Mean and standard deviation of pixels 0..1 over many images, and how much single images differ from
#: these.
_MEAN, _SPREAD = 0.45, 0.24
_MEAN_VARIES, _SPREAD_VARIES = 0.2, 0.5
#: Squared distance, in such differences, from which no known preprocessing fits.
_TOO_FAR = 16.0
#: Correlation of neighbours; of images it is 0.7 or more, of noise none.
_NEIGHBOURS = 0.3
#: Part of the range that values may be outside of it: what resizing with cubic splines overshoots.
_OUTSIDE = 0.05


def of_examples(subject: Subject) -> Preprocessing | None:
    """Of examples that are images."""
    x = _images(subject)
    if x is None or _correlation(x) < _NEIGHBOURS:
        return None
    return _found(x, "the example inputs, by their mean, spread and range", certain=True)


def of_noise(subject: Subject) -> Preprocessing | None:
    """Of examples that are random numbers: drawn as the real inputs are distributed, perhaps."""
    x = _images(subject)
    if x is None:
        return None
    return _found(x, "the example inputs are noise, drawn in such a range", certain=False)


def _images(subject: Subject) -> NDArray[np.float64] | None:
    """The examples (N, C, H, W), where they vary."""
    x = subject.runner.examples.get(subject.name)
    if x is None or x.ndim != 4 or not np.isfinite(x).all() or float(x.std()) <= 1e-6 * float(abs(x).max()):
        return None
    return np.asarray(x, np.float64)


def _correlation(x: NDArray[np.float64]) -> float:
    """Of neighbours in a row, over all channels."""
    centred = x - x.mean(axis=(2, 3), keepdims=True)
    if x.shape[3] < 2 or not centred.any():
        return 0.0
    return float((centred[..., 1:] * centred[..., :-1]).mean() / (centred**2).mean())


def _found(x: NDArray[np.float64], where: str, *, certain: bool) -> Preprocessing:
    channels = x.shape[1]
    far = {
        name: _distance(x, options.channel_mean(channels), options.channel_scale(channels))
        for name, options in known(channels).items()
    }
    best = min(far, key=lambda name: far[name])
    if far[best] < _TOO_FAR:
        return unordered(known(channels)[best], f"{where}, which are those of {best}", certain=certain)
    spread = x.std(axis=(0, 2, 3)) / (255 * _SPREAD)
    scale = np.where(spread > 0, spread, spread.max())
    return Preprocessing(values(255 * _MEAN - x.mean(axis=(0, 2, 3)) / scale, scale), where, certain)


def unordered(options: ImageOptions, where: str, *, certain: bool = True) -> Preprocessing:
    """A preprocessing whose order of channels is likely, and shown by nothing."""
    plain = ImageOptions(mean=options.mean, scale=options.scale)
    return Preprocessing(plain, where, certain, options.color or "rgb")


def known(channels: int) -> Mapping[str, ImageOptions]:
    """The preprocessings that are told from each other, by name."""
    return {**{name: preset(name, channels) for name in PRESETS}, "pixels 0..255": values(0.0, 1.0)}


def _distance(x: NDArray[np.float64], mean: NDArray[np.float32], scale: NDArray[np.float32]) -> float:
    """How unlike images the pixels are that `x` would be made of; infinite out of range."""
    pixels = (x / scale.reshape(-1, 1, 1) + mean.reshape(-1, 1, 1)) / 255
    if pixels.min() < -_OUTSIDE or pixels.max() > 1 + _OUTSIDE:
        return np.inf
    # The mean over samples of each one's spread: what a channel of one image has.
    spread = float(np.sqrt(pixels.var(axis=(2, 3)).mean()))
    middle = float(pixels.mean())
    if spread <= 0:
        return np.inf
    return float(((middle - _MEAN) / _MEAN_VARIES) ** 2 + (np.log(spread / _SPREAD) / _SPREAD_VARIES) ** 2)
