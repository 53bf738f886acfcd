"""Images to inputs, by Caffe's rules: pixels 0..255, (H, W, C) to (C, H, W), (pixel - mean) * scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OptionError
from ..progress import track
from .inputs import DEFAULT_LIMIT, Inputs, Provenance, SampleShape, describe
from .mean import read_mean
from .memory import check_room
from .pixels import COLORS, BadImageError, Color, ImageSource, Pixels, find_images, named, read_pixels, resize
from .presets import PRESETS, PresetName

Mean = tuple[float, ...] | NDArray[np.float32] | str | Path


@dataclass(frozen=True, eq=False)
class ImageOptions:
    """How an image becomes a sample. None means "not said": see `or_else`, and the defaults below.

    The image is decoded, resized, cropped, and its values are mapped, in this order:

    - `size` given: resized to it, whatever the aspect; a single number is the length of the shorter side,
      and the aspect is kept.
    - `size` not given, and neither `crop` nor more than one crop asked for: resized to the net's input size,
      whatever the aspect (as Caffe's classification example and OpenCV's blobFromImage do).
    - `size` not given, crops wanted: left at its own scale, but enlarged, aspect kept, where it is smaller
      than the crop.
    - Then a crop of `crop`, else of the net's input size, is cut out if the image is larger than that: the
      centre one, rounded towards the top left as in Caffe's test phase, or `crops` random ones.

    Attributes:
        size: (height, width), or the shorter side.
        crop: (height, width) of the crop; must be the net's input size where the net fixes that.
        crops: crops per image; 1 is the centre crop.
        color: order of the channels; by default bgr for 3 channels of a Caffe net, rgb for those of others,
            gray for 1.
        mean: subtracted from the pixels: one value, one per channel (in the order of `color`), an array
            (C, H, W), or text or a path for `read_mean`. An array of the resized image's size is cropped
            with it, as Caffe does; of another size (where Caffe gives up), its mean per channel is taken, and
            this is noted. Default 0.
        scale: multiplies what remains after the mean: one value, or one per channel (1 / standard deviation).
            Default 1.
        preset: name of a mean, scale and order of channels, instead of these: see `PRESETS`.
        limit: at most so many images, drawn by `seed` where there are more; 0 takes all.
        seed: for the drawing of images and random crops.
    """

    size: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    crops: int = 1
    color: Color | None = None
    mean: Mean | None = None
    scale: float | tuple[float, ...] | None = None
    preset: PresetName | None = None
    limit: int = DEFAULT_LIMIT
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.mean, (str, Path)):
            object.__setattr__(self, "mean", read_mean(self.mean))
        if isinstance(self.crop, int):
            object.__setattr__(self, "crop", (self.crop, self.crop))
        sizes = [self.size] if isinstance(self.size, int) else list(self.size or ())
        if any(length < 1 for length in (*sizes, *(self.crop or ()))):
            raise OptionError(f"sizes of images are positive, got size {self.size} and crop {self.crop}")
        if self.seed < 0:
            raise OptionError(f"a seed is a whole number, 0 or more, got {self.seed}")
        if self.crops < 1 or self.limit < 0:
            raise OptionError(
                f"at least one crop per image and no negative limit, got {self.crops} and {self.limit}"
            )
        if self.color is not None and self.color not in get_args(Color):
            raise OptionError(f"unknown color order {self.color!r}: choose from {', '.join(COLORS)}")
        if self.scale is not None:
            scale = np.asarray(self.scale, np.float64)
            if not (scale.size and scale.ndim < 2 and np.isfinite(scale).all() and scale.all()):
                raise OptionError(f"scale must be a finite number other than 0, got {self.scale}")
            plain = float(scale) if not scale.ndim else tuple(scale.tolist())
            object.__setattr__(self, "scale", plain)
        if self.preset is not None:
            self._check_preset(self.preset)
        if self.mean is not None and not np.isfinite(self._mean).all():
            raise OptionError("the mean has values that are not finite")

    def _check_preset(self, preset: str) -> None:
        if preset not in PRESETS:
            raise OptionError(f"unknown preset {preset!r}: choose from {', '.join(PRESETS)}")
        both = [name for name in ("mean", "scale", "color") if getattr(self, name) is not None]
        if both:
            raise OptionError(f"preset {preset} and {' and '.join(both)}: give one of them")

    @property
    def _mean(self) -> NDArray[np.float32]:
        assert not isinstance(self.mean, (str, Path)), "Bug: the mean was not read"
        return np.asarray(() if self.mean is None else self.mean, np.float32)

    def or_else(self, other: ImageOptions) -> ImageOptions:
        """These options, with `other`'s values where these say nothing."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        if self.preset is not None:  # it says these
            said |= {"mean": None, "scale": None, "color": None}
        return replace(other, **said)

    @property
    def maps_values(self) -> bool:
        """Whether a mean, a scale or a preset is named."""
        return any(value is not None for value in (self.mean, self.scale, self.preset))

    def settled(self, channels: int) -> ImageOptions:
        """The same with mean, scale and order of channels in the place of the preset's name."""
        if self.preset is None:
            return self
        preset = PRESETS[self.preset]
        mean, scale = preset.values(channels)
        color = preset.color if channels == len(preset.mean) else None
        return replace(self, preset=None, mean=mean, scale=scale, color=color)

    def to_json(self) -> dict[str, object]:
        """As plain JSON values; a mean array is named by its shape and its mean per channel."""
        values = asdict(self)
        if isinstance(self.mean, np.ndarray):
            channels = self.mean.reshape(len(self.mean), -1).mean(axis=1)
            values["mean"] = {
                "shape": list(self.mean.shape),
                "channels": [round(float(c), 6) for c in channels],
            }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def channel_mean(self, channels: int) -> NDArray[np.float32]:
        """The mean per channel, (C,), 0 where none is said.

        Raises:
            OptionError: the mean is for another number of channels.
        """
        mean = self._mean
        if not mean.size:
            return np.zeros(channels, np.float32)
        mean = mean.reshape(len(mean), -1).mean(axis=1) if mean.ndim else mean[None]
        if len(mean) not in {1, channels}:
            raise OptionError(f"the mean has {len(mean)} values, but the net takes {_channels(channels)}")
        return np.broadcast_to(mean, (channels,)).astype(np.float32)

    def channel_scale(self, channels: int) -> NDArray[np.float32]:
        """The scale per channel, (C,), 1 where none is said.

        Raises:
            OptionError: it is for another number of channels.
        """
        scale = np.atleast_1d(np.asarray(1.0 if self.scale is None else self.scale, np.float32))
        if len(scale) not in {1, channels}:
            raise OptionError(f"the scale has {len(scale)} values, but the net takes {_channels(channels)}")
        return np.broadcast_to(scale, (channels,)).astype(np.float32)


@dataclass(frozen=True)
class _Recipe:
    """The options, settled for one net."""

    color: Color
    target: tuple[int, int]
    resize_to: int | tuple[int, int] | None  # None: own scale, enlarged to cover the target
    mean: NDArray[np.float32]  # (C,) or (C, H, W)
    scale: NDArray[np.float32]  # (C, 1, 1)
    crops: int


def load_images(
    source: ImageSource | Iterable[ImageSource],
    shapes: Mapping[str, SampleShape],
    options: ImageOptions | None = None,
    *,
    minimum: int = 1,
    memory: int | None = None,
) -> Inputs:
    """Read images as samples for a net with one input.

    Bad images are left out and named in the result; samples are held in memory as float32.

    Args:
        source: what `find_images` takes: a folder, a pattern, a text list, paths, images of
            Pillow.
        shapes: input name -> (C, H, W); sizes may be None, then `crop` or `size` must say them.
        options: see `ImageOptions`.
        minimum: fewer usable images than this are an error, as are fewer than half of those named.
        memory: bytes that samples may take; None for a fraction of what is free.

    Raises:
        InputError: nothing found, too few usable images, or the net does not take images.
        OptionError: options that contradict the net or each other.
        MissingExtraError: Pillow is not installed.
    """
    options = options or ImageOptions()
    name, recipe = _settle(shapes, options)
    paths = find_images(source)
    notes = []
    rng = np.random.default_rng(options.seed)
    if options.limit and len(paths) > options.limit:
        notes.append(f"{options.limit} of {len(paths)} images, drawn with seed {options.seed}")
        paths = [paths[i] for i in sorted(rng.choice(len(paths), options.limit, replace=False))]
    channels = 1 if recipe.color == "gray" else 3
    check_room(
        f"{len(paths)} images, {options.crops} of each" if options.crops > 1 else f"{len(paths)} images",
        memory, 4 * channels * math.prod(recipe.target) * options.crops * len(paths),
    )  # fmt: skip
    samples: list[NDArray[np.float32]] = []
    skipped: list[tuple[str, str]] = []
    reduced = False
    for path in track(paths, "reading images"):
        try:
            pixels = read_pixels(path, recipe.color)
            fitted = _fit(pixels, recipe)
        except BadImageError as error:
            skipped.append((named(path), str(error)))
            continue
        reduced |= recipe.mean.ndim == 3 and recipe.mean.shape[1:] != fitted.shape[:2]
        samples += _samples(fitted, recipe, rng)
    usable = len(paths) - len(skipped)
    if usable < max(1, minimum) or usable * 2 < len(paths):
        listed = "; ".join(f"{where}: {reason}" for where, reason in skipped[:3])
        more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        need = f"at least {minimum} are needed" if usable < max(1, minimum) else "fewer than half"
        raise InputError(f"{usable} of {len(paths)} images can be used ({need}). {listed}{more}")
    if skipped:
        notes.append(f"{len(skipped)} of {len(paths)} images were skipped")
    if reduced:
        notes.append(
            f"the mean image is {recipe.mean.shape[1:]}, not the images' size: its mean per channel was used"
        )
    origin = Provenance("images", _named(source), options.to_json(), tuple(skipped), tuple(notes))
    return Inputs({name: np.stack(samples)}, origin)


def random_crops(
    pixels: Pixels, size: tuple[int, int], count: int, rng: np.random.Generator
) -> list[tuple[slice, slice]]:
    """Positions of `count` random crops of `size` in an image (H, W, C) that is at least as large."""
    room = [have - want for have, want in zip(pixels.shape, size, strict=False)]
    corners = [(int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))) for _ in range(count)]
    return [(slice(y, y + size[0]), slice(x, x + size[1])) for y, x in corners]


def _channels(count: int) -> str:
    return f"{count} channel" + ("" if count == 1 else "s")


def _settle(shapes: Mapping[str, SampleShape], options: ImageOptions) -> tuple[str, _Recipe]:
    if len(shapes) != 1:
        raise InputError(
            f"the net has the inputs {sorted(shapes)}: images can fill only one; "
            "give arrays for each as a .npz file"
        )
    ((name, shape),) = shapes.items()
    if len(shape) != 3 or shape[0] not in {1, 3, None}:
        raise InputError(
            f"input {name} takes {describe(shape)}, which is no image of 1 or 3 channels: "
            "give arrays as .npy or .npz"
        )
    channels = shape[0] or (1 if options.color == "gray" else 3)
    options = options.settled(channels)
    color = options.color or ("gray" if channels == 1 else "bgr")
    if (color == "gray") != (channels == 1):
        raise OptionError(
            f"color {color} gives {_channels(1 if color == 'gray' else 3)}, input {name} takes {channels}"
        )
    exact = None if isinstance(options.size, int) else options.size
    target = options.crop or tuple(n or (exact or (None, None))[i] for i, n in enumerate(shape[1:]))
    if None in target:
        raise OptionError(f"input {name} takes {describe(shape)}: say the size, or the crop")
    height, width = (int(length or 0) for length in target)
    if any(
        fixed is not None and fixed != length
        for fixed, length in zip(shape[1:], (height, width), strict=True)
    ):
        raise OptionError(f"crop {height}x{width} does not fit input {name}, which takes {describe(shape)}")
    least = (options.size,) * 2 if isinstance(options.size, int) else options.size
    if least and (least[0] < height or least[1] < width):
        wanted = "x".join(map(str, least)) if exact else f"with the shorter side at {options.size}"
        raise OptionError(
            f"images {wanted} are smaller than what the net takes, {height}x{width}; give --size of at least "
            f"that, or none: images are then resized to {height}x{width}"
        )
    resize_to = options.size
    if resize_to is None and not options.crop and options.crops == 1:
        resize_to = (height, width)
    per_channel = options.channel_mean(channels)  # rejects a mean for other channels
    image = isinstance(options.mean, np.ndarray) and options.mean.ndim == 3 and options.mean[0].size > 1
    mean = np.asarray(options.mean, np.float32) if image else per_channel
    scale = options.channel_scale(channels).reshape(-1, 1, 1)
    return name, _Recipe(color, (height, width), resize_to, mean, scale, options.crops)


def _fit(pixels: Pixels, recipe: _Recipe) -> Pixels:
    """Resize an image to where crops are cut from."""
    if isinstance(recipe.resize_to, tuple):
        return resize(pixels, recipe.resize_to)
    have = pixels.shape[:2]
    if recipe.resize_to is not None:
        factor = recipe.resize_to / min(have)
    else:
        factor = max(1.0, *(want / length for want, length in zip(recipe.target, have, strict=True)))
    # No side ends below the target: the factor covers both, or the shorter side does, as was checked.
    height, width = (max(round(length * factor), 1) for length in have)
    if height * width > 100_000_000:
        raise BadImageError(f"{have[0]}x{have[1]} is too long and thin to be resized to {height}x{width}")
    fitted = resize(pixels, (height, width))
    if any(length < want for length, want in zip(fitted.shape, recipe.target, strict=False)):
        raise BadImageError(f"{height}x{width} after resizing is smaller than the crop")
    return fitted


def _samples(pixels: Pixels, recipe: _Recipe, rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """Cut the crops of one image and map their values."""
    height, width = recipe.target
    if recipe.crops == 1:
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        cuts = [(slice(top, top + height), slice(left, left + width))]
    else:
        cuts = random_crops(pixels, recipe.target, recipe.crops, rng)
    mean = recipe.mean
    whole = mean.ndim == 3 and mean.shape[1:] == pixels.shape[:2]
    if mean.ndim == 3 and not whole:
        mean = mean.mean(axis=(1, 2))
    samples = []
    for cut in cuts:
        values = pixels[cut].transpose(2, 0, 1).astype(np.float32)
        values -= mean[(slice(None), *cut)] if whole else mean.reshape(-1, 1, 1)
        values *= recipe.scale
        samples.append(values)
    return samples


def _named(source: object) -> str:
    return str(source) if isinstance(source, (str, Path)) else "a list of images"
