"""Inputs beside the images that are no images: the size of an image, marks of sequences, vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .inputs import Inputs, SampleShape, describe

#: Axes of a sample of an image: channels, height, width.
_IMAGE_AXES = 3
#: Height and width of the images -> the values of a sample.
Values = Callable[[int, int], tuple[float, ...]]
#: What a name holds -> its values, in words and as numbers; the first that fits counts.
_KNOWN: dict[str, tuple[str, Values]] = {
    # Faster R-CNN's im_info: height, width, and the scale by which the image was resized
    "info": ("height, width and a scale of 1", lambda height, width: (height, width, 1.0)),
    "shape": ("height and width", lambda height, width: (height, width)),
    "size": ("height and width", lambda height, width: (height, width)),
    "scale": ("1", lambda height, width: (1.0, 1.0)),
    # 1 where a step of an LSTM continues a sequence
    "cont": ("1", lambda height, width: (1.0,)),
}


def images_among(shapes: Mapping[str, SampleShape]) -> dict[str, SampleShape]:
    """The inputs that may be images; all where none is, or where the size of another is not known."""
    images = {name: shape for name, shape in shapes.items() if len(shape) == _IMAGE_AXES}
    others = [shape for name, shape in shapes.items() if name not in images]
    return images if images and all(None not in shape for shape in others) else dict(shapes)


def accompanied(images: Inputs, shapes: Mapping[str, SampleShape], *, seed: int) -> Inputs:
    """Images with values for the inputs beside them.

    Args:
        images: samples of inputs (N, C, H, W).
        shapes: all inputs -> shape of a sample.
        seed: of values that are drawn.
    """
    missing = {name: shape for name, shape in shapes.items() if name not in images.arrays}
    if not missing:
        return images
    height, width = next(iter(images.arrays.values())).shape[2:]
    arrays, notes = dict(images.arrays), list(images.provenance.notes)
    rng = np.random.default_rng(seed)
    for name, shape in missing.items():
        size = tuple(axis or 1 for axis in shape)
        what, arrays[name] = _filled(name, (images.count, *size), height, width, rng)
        notes.append(f"{name}: takes {describe(shape)}, no images; filled with {what}")
    ordered = {name: arrays[name] for name in shapes}
    return replace(images, arrays=ordered, provenance=replace(images.provenance, notes=tuple(notes)))


def _filled(
    name: str, shape: tuple[int, ...], height: int, width: int, rng: np.random.Generator
) -> tuple[str, NDArray[np.float32]]:
    """What an input is filled with, in words and as an array of `shape`."""
    count = math.prod(shape[1:])
    for part, (words, values) in _KNOWN.items():
        if part in name.lower():
            row = values(height, width)
            # More values than are known are scales: R-FCN's im_info has two.
            row = (*row, *(1.0,) * (count - len(row)))[:count]
            return words, np.broadcast_to(np.asarray(row, np.float32), (shape[0], count)).reshape(shape)
    return "standard normal values", rng.standard_normal(shape, np.float32)
