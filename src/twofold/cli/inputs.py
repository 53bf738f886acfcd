"""Command line options that say what a network is calibrated on; several commands share them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ..calibration.accuracy import Accuracy
from ..calibration.gather import CalibrationOptions
from ..calibration.images import ImageOptions
from ..calibration.measure import Metric
from ..calibration.memory import parse_bytes
from ..calibration.pixels import COLORS, Color
from ..calibration.presets import PRESETS, PresetName
from ..calibration.source import CalibrationSource
from ..calibration.synthetic import ValueRange
from ..errors import OptionError, UsageError
from ..files.links import follow_links
from ..system import exists, working_folder

_GROUP = "Calibration"


def _option(text: str, metavar: str | None = None, *names: str) -> Any:
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=_GROUP)


Images = Annotated[str | None, _option("Images: a folder, a pattern, or a text file of paths.", "PATH")]
Data = Annotated[Path | None, _option("Network inputs, already preprocessed: .npy or .npz.", "FILE")]
NoData = Annotated[bool, _option("Use the weights alone; far less accurate.", None, "--no-data")]
Size = Annotated[
    str | None,
    _option("Resize images to height x width, or their shorter side, in pixels.", "HxW"),
]
Crop = Annotated[str | None, _option("Crop the center of each image, in pixels.", "HxW")]
Crops = Annotated[int, _option("Random crops per image instead of the center crop.", "N")]
ColorOrder = Annotated[str | None, _option("Channel order: " + ", ".join(COLORS) + ".", "ORDER")]
Mean = Annotated[
    str | None, _option("Subtracted from pixels 0..255: values, or a .binaryproto or .npy file.", "M")
]
Scale = Annotated[
    str | None,
    _option(
        "Factor after the mean is subtracted: one value, or one per channel (1 / std).",
        "S",
    ),
]
Preset = Annotated[
    str | None, _option("Mean, scale and channel order by name: " + ", ".join(PRESETS) + ".", "NAME")
]
Limit = Annotated[int | None, _option("Use at most N images; 0 takes all.", "N")]
Range = Annotated[
    str | None,
    _option("Range of the network's inputs, for synthetic images, such as -1:1.", "LOW:HIGH"),
]
Synthetic = Annotated[
    int | None,
    _option("Synthetic images, added to yours. Default: 66 without images, else 0.", "N"),
]
Memory = Annotated[
    str | None,
    _option(
        "Most memory for samples from files, and for statistics of layers, such as 2G. Default: half of what "
        "is free.",
        "BYTES",
    ),
]
Saved = Annotated[
    Path | None, _option("Cache calibration statistics in a file for later runs.", "FILE", "--statistics")
]
Targets = Annotated[
    list[str] | None, _option("Outputs whose error counts. Default: all outputs of the network.", "NAME")
]
Labels = Annotated[
    str | None,
    _option(
        "For --accuracy-drop: labelled images, one subfolder per class, or MODULE:FUNCTION, which is given "
        "a function that predicts.",
        "PATH",
    ),
]
UserMetric = Annotated[
    str | None,
    _option(
        "Protect what a function MODULE:FUNCTION makes of the outputs of all samples, a number.",
        "FUNCTION",
        "--metric",
    ),
]
Seed = Annotated[int, _option("Seed of the random numbers.", "N")]

InputShapes = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=1x3x224x224", help="Shape of an input, instead of the file's."),
]


def _follow(follow: bool) -> bool:
    follow_links(follow)
    return follow


FollowLinks = Annotated[
    bool,
    typer.Option(
        "--follow-links",
        help="Read data of an ONNX model through links out of its folder, too.",
        callback=_follow,
    ),
]


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Name and shape of an input.

    Raises:
        OptionError: the text is not NAME=SIZES.
    """
    name, _, dims = text.rpartition("=")
    parts = dims.lower().split("x")
    if not name or not all(re.fullmatch(r"0*[1-9][0-9]{0,8}", part) for part in parts):
        raise UsageError(f"--input: {text!r} is not NAME=SIZES, such as data=1x3x224x224")
    return name, tuple(map(int, parts))


def shapes(texts: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """Shapes of inputs by name, from the options that say them."""
    return dict(map(shape, texts or ()))


@dataclass(frozen=True)
class Samples:
    """What the network's inputs are made of."""

    images: Images = None
    data: Data = None
    size: Size = None
    crop: Crop = None
    crops: Crops = 1
    color: ColorOrder = None
    mean: Mean = None
    scale: Scale = None
    preset: Preset = None
    limit: Limit = None
    range: Range = None
    seed: Seed = 0

    def source(self) -> CalibrationSource:
        """What the options say.

        Raises:
            OptionError: an option cannot be read.
            InputError: the mean file cannot be read.
        """
        limit: dict[str, Any] = {} if self.limit is None else {"limit": self.limit}
        options = ImageOptions(
            size=None if self.size is None else _size("size", self.size),
            crop=None if self.crop is None else _pair(_size("crop", self.crop)),
            crops=self.crops,
            color=cast("Color | None", self.color),  # ImageOptions rejects others
            mean=self.mean,
            scale=None if self.scale is None else _numbers("scale", self.scale),
            preset=cast("PresetName | None", self.preset),  # ImageOptions rejects others
            seed=self.seed,
            **limit,
        )
        return CalibrationSource(
            images=self.images,
            data=self.data,
            image_options=options,
            values=None if self.range is None else _range(self.range),
            options=CalibrationOptions(seed=self.seed),
        )


@dataclass(frozen=True)
class Compared(Samples):
    """The same, and the outputs that are looked at."""

    targets: Targets = None

    def source(self) -> CalibrationSource:
        """What the options say."""
        return replace(super().source(), targets=tuple(self.targets or ()))


@dataclass(frozen=True)
class Learned(Compared):
    """The same, and images that are synthesized."""

    synthetic: Synthetic = None

    def source(self) -> CalibrationSource:
        """What the options say."""
        source = super().source()
        return replace(source, options=replace(source.options, synthetic=self.synthetic))


@dataclass(frozen=True)
class Calibrated(Learned):
    """All that calibration takes."""

    no_data: NoData = False
    memory: Memory = None
    statistics: Saved = None
    accuracy: Labels = None
    metric: UserMetric = None

    def source(self) -> CalibrationSource:
        """What the options say."""
        source = super().source()
        memory = None if self.memory is None else parse_bytes(self.memory)
        return replace(
            source,
            accuracy=None if self.accuracy is None else _accuracy(self.accuracy),
            metric=None if self.metric is None else cast(Metric, _function("--metric", self.metric)),
            statistics=self.statistics,
            options=replace(source.options, memory=memory),
        )


def _accuracy(text: str) -> Path | Accuracy:
    """A folder, or a function named MODULE:FUNCTION."""
    if exists(Path(text)) or ":" not in text:
        return Path(text)
    return cast(Accuracy, _function("--accuracy", text))


def _function(option: str, text: str) -> Callable[..., Any]:
    """A function named MODULE:FUNCTION; modules are looked for in the working directory, too."""
    module, _, name = text.partition(":")
    sys.path.insert(0, str(working_folder()))
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except Exception as error:  # a module of the user's may raise anything while it is imported
        told = f"{type(error).__name__}: {error}".rstrip(": ")
        raise OptionError(f"{option}: cannot find {name!r} in module {module!r}: {told}") from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise OptionError(f"{option}: {text} is no function")
    return found


def _size(name: str, text: str) -> int | tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,5}))?", text.strip().lower())
    if match is None:
        raise UsageError(f"--{name}: {text!r} is no size; write 256, or 256x320 for height x width")
    return (int(match[1]), int(match[2])) if match[2] else int(match[1])


def _numbers(name: str, text: str) -> float | tuple[float, ...]:
    """One number, or several that commas part."""
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--{name}: {text!r} is no number, and no list of them with commas") from None
    return found[0] if len(found) == 1 else found


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _range(text: str) -> ValueRange:
    low, colon, high = text.partition(":")
    try:
        if not colon:
            raise ValueError(text)
        return ValueRange(float(low), float(high))
    except ValueError:
        raise UsageError(f"--range: {text!r} is no range; write LOW:HIGH, such as -1:1 or 0:255") from None
