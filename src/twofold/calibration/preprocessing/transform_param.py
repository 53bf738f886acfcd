"""What a Caffe net says about its images: `transform_param` of its data layers; Caffe's convention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, OptionError, option
from ...formats.caffe.fields import Fields
from ...formats.caffe.net import LayerSpec, NetDefinition
from ...system import is_file
from ..images import ImageOptions
from ..mean import read_mean
from .value import Preprocessing, Subject


@dataclass(frozen=True, eq=False)
class CaffeDescription:
    """What may describe a Caffe net's inputs.

    Attributes:
        net: the net.
        folder: where its mean files may lie.
    """

    net: NetDefinition
    folder: Path


def of_caffe(subject: Subject) -> Preprocessing | None:
    """What the data layers of a Caffe net say; else Caffe's convention, for which options say nothing."""
    described = subject.runner.described
    if not isinstance(described, CaffeDescription):
        return None
    options, notes = model_options(described.net, described.folder)
    told = options.maps_values
    found = "transform_param" if told else "Caffe's convention"
    return Preprocessing(options, found, told, "bgr", notes)


def model_options(net: NetDefinition, folder: Path | None = None) -> tuple[ImageOptions, tuple[str, ...]]:
    """Read how a net's data layers prepare images; options that say nothing where no layer does.

    Args:
        net: the net; a deploy net has no data layer, its train_val twin has.
        folder: where mean files are looked for that are not in the working directory, which Caffe uses.

    Returns:
        The options, and notes on what was left out.

    Raises:
        InputError: the mean file is missing or no mean.
        OptionError: mean_file and mean_value together, which Caffe rejects.
    """
    for layer in net.layers:
        if not layer.bottoms and (layer.fields.has("transform_param") or layer.type == "ImageData"):
            return _options(layer, folder or Path())
    return ImageOptions(), ()


def _options(layer: LayerSpec, folder: Path) -> tuple[ImageOptions, tuple[str, ...]]:
    transform = layer.fields.message("transform_param")
    notes = []
    crop = transform.integer("crop_size")
    if transform.flag("mirror"):
        notes.append(f"{layer.name}: mirror is left out, calibration sees the images as they are")
    mean_file, mean_values = transform.text("mean_file"), transform.numbers("mean_value")
    if mean_file and mean_values:
        raise OptionError(f"layer {layer.name}: mean_file and mean_value together, which Caffe rejects")
    mean: Sequence[float] | NDArray[np.float32] | None = mean_values or None
    if mean_file:
        mean = _mean_file(layer.name, mean_file, folder)
    gray = transform.flag("force_gray")
    size = None
    if layer.type == "ImageData":
        own = layer.fields.message("image_data_param")
        size = _size(own)
        gray |= not own.flag("is_color") and not transform.flag("force_color")
    scale = transform.number("scale") if transform.has("scale") else None
    # A crop of 0 is none.
    options = ImageOptions(
        size=size,
        crop=(crop, crop) if crop else None,
        color="gray" if gray else None,
        mean=mean if mean is None or isinstance(mean, np.ndarray) else tuple(mean),
        scale=scale,
    )
    return options, tuple(notes)


def _size(image_data: Fields) -> tuple[int, int] | None:
    height, width = image_data.integer("new_height"), image_data.integer("new_width")
    return (height, width) if height and width else None


def _mean_file(layer: str, name: str, folder: Path) -> NDArray[np.float32]:
    for path in (Path(name), folder / name, folder / Path(name).name):
        if is_file(path):
            mean = read_mean(path)
            return np.asarray(mean, np.float32)
    raise InputError(
        f"layer {layer} names the mean file {name}, which is neither there nor in {folder}: "
        f"give the mean as values ({option('mean=(104, 117, 123)', '--mean 104,117,123')}) or another file"
    )
