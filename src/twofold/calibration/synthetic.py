"""Synthetic images for networks without data: "dead leaves", which have the edge statistics of photographs.

Opaque discs and rotated rectangles, whose sizes follow a power law, hide each other until the image is
full; each has a grain and light that falls off over it, then come blur and noise. Occlusion and the power law
together give straight and round edges at every scale and a power spectrum that falls as 1 / f^2 or a little
faster, as that of photographs does.

The widths of the distributions were chosen on six layers of HED (VGG-16): `channel` factors at a quarter of
the rank, fitted to the statistics of these images, lose 1.4 times as much on photographs as factors fitted
to those photographs; with white noise 4.9 times, from the weights alone 7.8 times as much.

Source: Lee, Mumford, Huang, "Occlusion models for natural images", IJCV 41 (2001); Baradad et al.,
"Learning to see by looking at noise", NeurIPS 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import InputError, OptionError, remedy
from ..progress import track
from .images import ImageOptions
from .inputs import Inputs, Provenance, SampleShape, describe
from .memory import check_room

Image = NDArray[np.float32]

#: Means that Caffe's ImageNet models subtract, in its own order: blue, green, red.
IMAGENET_BGR = (104.0, 117.0, 123.0)
MAX_CHANNELS = 16
MIN_SIDE = 8

# Once so much of an image is covered, shapes are aimed at the holes; until then they fall where they like.
_AIM_FROM = 0.8


@dataclass(frozen=True)
class ValueRange:
    """What a network's inputs are taken to be: `(pixel - mean) * scale` with pixels in low..high.

    Attributes:
        low: darkest pixel.
        high: brightest pixel.
        mean: subtracted per channel, or one value for all.
        scale: multiplies what remains, per channel, or one value for all.
        known: whether the mean and scale were told, by the user or the model; else they are a guess.
    """

    low: float = 0.0
    high: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    scale: float | tuple[float, ...] = 1.0
    known: bool = True

    def __post_init__(self) -> None:
        numbers = [self.low, self.high, *self.mean, *np.atleast_1d(self.scale)]
        if not (np.isfinite(numbers).all() and self.low < self.high):
            raise OptionError(f"a value range goes from a lower to a higher finite number, got {self}")

    @classmethod
    def of(cls, channels: int, options: ImageOptions | None = None, *, known: bool = True) -> ValueRange:
        """The range that `options` give; where they name neither mean nor scale, what Caffe's models use.

        That is 0..255 minus the ImageNet mean for three channels, 0..255 for any other number.
        """
        if options is not None and options.maps_values:
            options = options.settled(channels)
            mean = tuple(float(value) for value in options.channel_mean(channels))
            scale = 1.0 if options.scale is None else options.scale
            return cls(mean=mean, scale=scale, known=known)
        if channels != 3:
            return cls(known=False)
        order = IMAGENET_BGR[::-1] if options is not None and options.color == "rgb" else IMAGENET_BGR
        return cls(mean=order, known=False)

    def __str__(self) -> str:
        minus = f" minus {_listed(self.mean)}" if any(self.mean) else ""
        times = f", times {_listed(self.scale)}" if self.scale != 1 else ""
        return f"pixels {self.low:g}..{self.high:g}{minus}{times}" + ("" if self.known else " (assumed)")


def _listed(values: float | tuple[float, ...]) -> str:
    """One number, or several in brackets."""
    if not isinstance(values, tuple):
        return f"{values:g}"
    return f"({', '.join(f'{value:g}' for value in values)})"


def synthetic_inputs(
    shapes: Mapping[str, SampleShape],
    *,
    count: int = 66,
    seed: int = 0,
    values: ValueRange | Mapping[str, ValueRange] | None = None,
    options: ImageOptions | None = None,
) -> Inputs:
    """Make dead-leaves images for every input of a net.

    Args:
        shapes: input name -> (C, H, W).
        count: number of images.
        seed: equal seeds give equal images.
        values: what the net expects, per input or for all; by default `ValueRange.of(channels, options)`.
        options: the net's preprocessing, where it is known (its color, mean and scale are used).

    Returns:
        The images; `provenance.notes` says which range was assumed.

    Raises:
        InputError: an input is no image.
    """
    if count < 1:
        raise OptionError(f"at least one synthetic image, got {count}")
    arrays: dict[str, Image] = {}
    notes: list[str] = []
    values_of_one = sum(math.prod(image_shape(name, shape)) for name, shape in shapes.items())
    check_room(f"{count} synthetic images", None, 4 * count * values_of_one)
    for position, (name, shape) in enumerate(shapes.items()):
        channels, height, width = image_shape(name, shape)
        if isinstance(values, Mapping):
            if name not in values:
                raise OptionError(f"no value range for input {name}, only for {sorted(values)}")
            span = values[name]
        else:
            span = values or ValueRange.of(channels, options)
        scale = np.atleast_1d(np.asarray(span.scale, np.float32))
        for what, of_channels in (("mean", span.mean), ("scale", scale)):
            if len(of_channels) not in {1, channels}:
                raise OptionError(
                    f"the {what} has {len(of_channels)} values, but input {name} takes {channels} channels"
                )
        leaves = dead_leaves(count, channels, (height, width), seed=seed + position)
        leaves *= span.high - span.low
        leaves += span.low - np.asarray(span.mean, np.float32).reshape(-1, 1, 1)
        leaves *= scale.reshape(-1, 1, 1)
        arrays[name] = leaves
        colours = {1: "gray", 3: "colour"}.get(channels, f"{channels}-channel, each with values of its own,")
        notes.append(f"{name}: {count} synthetic {colours} images {height}x{width}, {span}")
    settings: dict[str, object] = {"count": count, "seed": seed}
    return Inputs(arrays, Provenance("synthetic", "dead leaves", settings, notes=tuple(notes)))


def beside(given: Inputs, count: int, *, seed: int = 0) -> Inputs:
    """Synthetic images to add to few real ones, with the values between each channel's smallest and largest.

    A layer's covariance of few scenes knows nothing of what they do not show, and a fit gives that up.

    Args:
        given: real inputs.
        count: number of images.
        seed: equal seeds give equal images.

    Raises:
        InputError: an input is no image.
    """
    arrays = {}
    for position, (name, array) in enumerate(given.arrays.items()):
        channels, height, width = image_shape(name, array.shape[1:])
        low, high = (limit(axis=(0, 2, 3), keepdims=True) for limit in (array.min, array.max))
        leaves = dead_leaves(count, channels, (height, width), seed=seed + position)
        arrays[name] = low + (high - low) * leaves
    return Inputs(arrays, Provenance("synthetic", "dead leaves", {"count": count, "seed": seed}))


def image_shape(name: str, shape: SampleShape) -> tuple[int, int, int]:
    """Channels, height and width of an input that takes images.

    Raises:
        InputError: it takes something else, or its size is not known.
    """
    advice = "give inputs of your own" + remedy(", or use weights only ({})", "no_data=True")
    if len(shape) != 3 or not shape[0] or shape[0] > MAX_CHANNELS:
        raise InputError(f"input {name} takes {describe(shape)}, which is no image to make up: {advice}")
    channels, (height, width) = shape[0], shape[1:]
    if height is None or width is None:
        example = f"{name}=1x{channels}x{height or 224}x{width or 224}"
        raise InputError(
            f"input {name} takes {describe(shape)}: its size is not known; say it (--input {example}), "
            f"{advice}"
        )
    if min(height, width) < MIN_SIDE:
        raise InputError(f"input {name} takes {describe(shape)}, too small for a synthetic image: {advice}")
    return channels, height, width


def dead_leaves(count: int, channels: int, size: tuple[int, int], *, seed: int = 0) -> Image:
    """Paint `count` dead-leaves images.

    Args:
        count: number of images.
        channels: number of channels; those of one shape are correlated as the colours of real things are.
        size: (H, W).
        seed: equal seeds give equal images; image i does not depend on `count`.

    Returns:
        (count, channels, H, W) float32 in 0..1.
    """
    images = np.empty((count, channels, *size), np.float32)
    for index, image in enumerate(track(images, "making synthetic images")):
        image[:] = _image(channels, size, np.random.default_rng([seed, index]))
    return images


def _image(channels: int, size: tuple[int, int], rng: np.random.Generator) -> Image:
    leaf, centres, radii = _cover(size, rng)
    count = len(radii)
    y, x = (axis.astype(np.float32) for axis in np.ogrid[: size[0], : size[1]])

    # A gray level, and a smaller deviation from it per channel: what one shows, the others mostly show too.
    # Some images are nearly gray, as many photographs are, some colourful.
    gray = rng.uniform(0.03, 0.97, (1, count))
    chroma = _log_uniform(rng, 0.01, 0.3) * (channels > 1)
    colors = gray + rng.normal(0.0, chroma, (channels, count))
    # Light falls off across each leaf, and across the whole image, for all channels alike.
    slope = rng.normal(0.0, 0.12, (2, count)) / radii
    cy, cx = centres.T
    light = slope[0][leaf] * (y - cy[leaf]) + slope[1][leaf] * (x - cx[leaf])
    across = rng.normal(0.0, 0.12, 2)
    light = light + across[0] * (y / size[0] - 0.5) + across[1] * (x / size[1] - 0.5)
    # What leaves are made of has a grain; most are nearly smooth.
    grain = sum(
        ndimage.gaussian_filter(rng.normal(size=size), scale, mode="wrap") * 2 * scale
        for scale in (0.7, 1.5, 3.0)
    )
    light = light + rng.exponential(0.03, count)[leaf] * grain
    image = np.asarray(colors[:, leaf] + light, np.float32)

    blur = float(rng.uniform(0.4, 1.4))
    image = ndimage.gaussian_filter(image, (0, blur, blur), mode="nearest")
    image += rng.normal(0.0, rng.uniform(0.0, 0.03), image.shape).astype(np.float32)
    return np.clip(image, 0.0, 1.0, out=image)


def _cover(
    size: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Drop leaves until nothing of the ground is seen; the first is in front.

    Returns:
        The leaf of each pixel (H, W); centres (leaves, 2) in pixels; radii (leaves,) in pixels.
    """
    height, width = size
    leaf = np.full(size, -1, np.intp)
    # Some images are all detail, some mostly smooth.
    smallest, largest = max(1.5, min(size) * _log_uniform(rng, 0.02, 0.2)), max(size) / 2
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    centres: list[tuple[float, float]] = []
    radii: list[float] = []
    open_pixels = height * width
    aim_below = open_pixels * (1 - _AIM_FROM)
    while open_pixels:
        aimed = open_pixels < aim_below
        radius = _radius(rng.random(), smallest, largest, aimed)
        if aimed:
            # What the whole sequence would do here in the end, without the many leaves that fall on covered
            # ground: one that covers a given pixel lies uniformly around it, large ones more often, as r^2.
            holes = np.flatnonzero(leaf < 0)
            open_pixels = len(holes)
            if not open_pixels:
                break
            ty, tx = divmod(int(holes[int(rng.integers(len(holes)))]), width)
            away, angle = radius * np.sqrt(rng.random()) * 0.7, rng.uniform(0, 2 * np.pi)
            cy, cx = ty + away * np.sin(angle), tx + away * np.cos(angle)
        else:
            # Centres also lie outside, so that the border is covered like the middle.
            cy = rng.uniform(-radius, height + radius)
            cx = rng.uniform(-radius, width + radius)
        top, bottom = max(0, int(cy - radius)), min(height, int(cy + radius) + 2)
        left, right = max(0, int(cx - radius)), min(width, int(cx + radius) + 2)
        seen = leaf[top:bottom, left:right]
        free = seen < 0
        if not free.any():
            continue
        dy, dx = rows[top:bottom] - np.float32(cy), columns[left:right] - np.float32(cx)
        free &= _shape(dy, dx, radius, rng)
        covered = int(np.count_nonzero(free))
        if covered:
            seen[free] = len(radii)
            centres.append((cy, cx))
            radii.append(radius)
            open_pixels -= covered
    return leaf, np.array(centres), np.array(radii)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _radius(u: float, smallest: float, largest: float, aimed: bool) -> float:
    """Draw from a density r^-3, which looks alike at all scales; from r^-3 * r^2 for aimed leaves."""
    if aimed:
        return float(smallest * (largest / smallest) ** u)
    near, far = smallest**-2, largest**-2
    return float((near - u * (near - far)) ** -0.5)


def _shape(
    dy: NDArray[np.float32], dx: NDArray[np.float32], radius: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """A disc, or a rectangle of any angle and aspect inside it."""
    if rng.random() < 0.5:
        return dy * dy + dx * dx <= radius * radius
    # Corners lie on the circle of `radius`: half sides are radius * (cos, sin) of the diagonal's angle.
    diagonal, turn = rng.uniform(0.15, np.pi / 4), rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along = np.abs(dx * cos + dy * sin) <= radius * np.cos(diagonal)
    inside: NDArray[np.bool_] = along & (np.abs(dy * cos - dx * sin) <= max(0.5, radius * np.sin(diagonal)))
    return inside
