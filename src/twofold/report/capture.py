"""Running a few inputs through both networks, and turning what goes in and comes out into images."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.inputs import Batch
from ..calibration.pixels import resize
from ..calibration.runner import Outputs, Stacks
from ..calibration.runners import runner_for
from ..calibration.source import is_caffe
from ..compare import SCORE, are_boxes, are_classes
from ..decomposition.calibrate import Calibration
from ..errors import MissingExtraError
from ..formats.base import Model
from .data import Box, Sample, Shown

Array = NDArray[np.float32]

#: Inputs that are shown.
COUNT = 4
#: Longest side of an image that is stored, and the shortest of one that is shown.
_SIDE, _SMALLEST = 320, 4
_CLASSES = 5


def capture(model: Model, calibration: Calibration, stacks: Stacks) -> tuple[Sample, ...]:
    """Run inputs that no factor was fitted to (unless there were few) through both networks.

    Args:
        model: the original.
        calibration: of its held-out inputs the first few are taken.
        stacks: what stands in the place of layers.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    # What is protected may lie before what the network gives: a detector's scores before its boxes.
    runner = runner_for(model, calibration.runner.network_outputs or calibration.runner.outputs)
    color = calibration.inputs.provenance.color or ("bgr" if is_caffe(runner) else "rgb")
    found: list[Sample] = []
    for batch in calibration.holdout:
        found += samples(batch, runner.run(batch), runner.run(batch, stacks), color)
        if len(found) >= COUNT:
            break
    return tuple(found[:COUNT])


def samples(batch: Batch, before: Outputs, after: Outputs, color: str = "bgr") -> tuple[Sample, ...]:
    """Images of a batch and of what two networks give for it.

    Args:
        batch: inputs by name; the first that looks like an image is shown.
        before: outputs by name.
        after: the same of the other network.
        color: order of the input's channels.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    count = min(COUNT, *(len(value) for value in batch.values()))
    found = []
    for index in range(count):
        images = [value[index] for value in batch.values() if _is_image(value)]
        alone = len(before) == 1
        outputs = (_shown(name, index, count, value, after[name], alone) for name, value in before.items())
        image = _input_uri(images[0], color) if images else ""
        kept = tuple(one for one in outputs if one is not None and (image or not one.boxes))
        found.append(Sample(image, kept))
    return tuple(one for one in found if one.outputs)


def _is_image(value: Array) -> bool:
    return value.ndim == 4 and value.shape[1] in (1, 3) and min(value.shape[2:]) >= _SMALLEST


def _shown(name: str, index: int, count: int, before: Array, after: Array, alone: bool) -> Shown | None:
    if before.shape != after.shape and not are_boxes(before):
        return None
    if are_boxes(before):
        pair = tuple(_boxes(value.reshape(-1, 7), index) for value in (before, after))
        return Shown(name, boxes=pair)
    if len(before) < count:
        return None
    one, other = before[index], after[index]
    if are_classes(before, alone=alone):
        return Shown(name, classes=_classes(one.reshape(-1), other.reshape(-1)))
    if one.ndim == 3 and min(one.shape[1:]) >= _SMALLEST:
        # Of several channels the strongest differs; their mean over all is one image for both.
        low, high = float(one.mean(0).min()), float(one.mean(0).max())
        return Shown(name, maps=tuple(_map_uri(value.mean(0), low, high) for value in (one, other)))
    return None


def _boxes(rows: Array, image: int) -> tuple[Box, ...]:
    kept = rows[(rows[:, 0].astype(int) == image) & (rows[:, 2] >= SCORE)]
    return tuple(
        Box(float(row[3]), float(row[4]), float(row[5]), float(row[6]), float(row[2]), f"class {int(row[1])}")
        for row in kept
    )


def _classes(before: Array, after: Array) -> tuple[tuple[str, float, float], ...]:
    best = list(np.argsort(-before, kind="stable")[:_CLASSES])
    best += [i for i in np.argsort(-after, kind="stable")[:1] if i not in best]
    return tuple((f"class {int(i)}", float(before[i]), float(after[i])) for i in best)


def _input_uri(image: Array, color: str) -> str:
    """An input as an image, the values of each channel stretched to the whole range."""
    # Channel by channel, which undoes a mean that was subtracted from each.
    low, high = image.min((1, 2), keepdims=True), image.max((1, 2), keepdims=True)
    shares = (image - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    pixels = (255 * shares).round().astype(np.uint8).transpose(1, 2, 0)
    if pixels.shape[2] == 3 and color == "bgr":
        pixels = pixels[:, :, ::-1]
    return _uri(_fitted(pixels), "JPEG")


def _map_uri(values: Array, low: float, high: float) -> str:
    """An output as shades of gray, at the scale of the original's."""
    shades = np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0)
    return _uri(_fitted((255 * shades).round().astype(np.uint8)[:, :, None]), "JPEG")


def _fitted(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = _SIDE / max(pixels.shape[:2])
    if 0.5 <= factor <= 1.5:
        return pixels
    if factor > 1:  # whole steps keep small images sharp
        step = int(factor)
        return pixels.repeat(step, 0).repeat(step, 1)
    return resize(pixels, (max(1, round(pixels.shape[0] * factor)), max(1, round(pixels.shape[1] * factor))))


def _uri(pixels: NDArray[np.uint8], image_format: str) -> str:
    try:
        from PIL import Image  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("showing inputs and outputs", "Pillow", "torch") from error
    image: Any = Image.fromarray(np.ascontiguousarray(pixels.squeeze()))
    stream = BytesIO()
    options: Mapping[str, Any] = {"quality": 82, "optimize": True}
    image.save(stream, image_format, **options)
    return f"data:image/{image_format.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
