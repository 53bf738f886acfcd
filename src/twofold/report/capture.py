"""Running a few inputs through both networks, and turning what goes in and comes out into images."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from io import BytesIO
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.detections import SCORE, are_boxes
from ..calibration.inputs import Batch
from ..calibration.pixels import resize
from ..calibration.runner import Outputs, Stacks
from ..calibration.runners import runner_for
from ..calibration.source import is_caffe
from ..compare import are_classes
from ..decomposition.calibrate import Calibration
from ..errors import MissingExtraError
from ..formats.base import Model
from .data import BRIGHTER, Box, Sample, Shown

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
    origin = calibration.inputs.provenance
    color = origin.color or ("bgr" if is_caffe(runner) else "rgb")
    found: list[Sample] = []
    for batch in calibration.holdout:
        found += samples(batch, runner.run(batch), runner.run(batch, stacks), color, origin.preprocessing)
        if len(found) >= COUNT:
            break
    return tuple(found[:COUNT])


def samples(
    batch: Batch, before: Outputs, after: Outputs, color: str = "bgr",
    preprocessing: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> tuple[Sample, ...]:  # fmt: skip
    """Images of a batch and of what two networks give for it.

    Args:
        batch: inputs by name; the first that looks like an image is shown.
        before: outputs by name.
        after: the same of the other network.
        color: order of the channels, of inputs and of outputs that are images.
        preprocessing: how pixels became values, by input, as `Provenance` has it.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    count = min(COUNT, *(len(value) for value in batch.values()))
    found = []
    for index in range(count):
        images = [(name, value[index]) for name, value in batch.items() if _is_image(value)]
        alone = len(before) == 1
        outputs = (
            _shown(name, index, count, value, after[name], alone, color) for name, value in before.items()
        )
        image = (
            _uri(_in_order(_pixels(images[0][1], preprocessing.get(images[0][0])), color)) if images else ""
        )
        kept = tuple(one for one in outputs if one is not None and (image or not one.boxes))
        found.append(Sample(image, kept))
    return tuple(one for one in found if one.outputs)


def _is_image(value: Array) -> bool:
    return value.ndim == 4 and value.shape[1] in (1, 3) and min(value.shape[2:]) >= _SMALLEST


def _shown(
    name: str, index: int, count: int, before: Array, after: Array, alone: bool, color: str
) -> Shown | None:
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
        return Shown(name, maps=_maps(one, other, color))
    return None


def _maps(before: Array, after: Array, color: str) -> tuple[str, ...]:
    """Both outputs at the scale of the first, and their difference; three channels are in colour."""
    if len(before) != 3:
        # Of several channels the strongest differs; their mean over all is one image for both.
        before, after = before.mean(0, keepdims=True), after.mean(0, keepdims=True)
    low, high = float(before.min()), float(before.max())
    span = (high - low) or 1.0
    shades = [_bytes((value - low) / span) for value in (before, after)]
    apart = _bytes(BRIGHTER * np.abs(after - before).mean(0, keepdims=True) / span)
    return tuple(map(_uri, (*(_in_order(one, color) for one in shades), _in_order(apart, color))))


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


def _pixels(image: Array, record: Mapping[str, Any] | None) -> NDArray[np.uint8]:
    """An input as pixels (C, H, W): its preprocessing undone, or all channels stretched alike."""
    if record is None:
        low, high = float(image.min()), float(image.max())
        return _bytes((image - low) / ((high - low) or 1.0))
    mean, scale = (record.get(name) for name in ("mean", "scale"))
    mean = mean["channels"] if isinstance(mean, Mapping) else mean
    columns = [
        np.reshape(start if one is None else one, (-1, 1, 1)) for one, start in ((mean, 0.0), (scale, 1.0))
    ]
    return _bytes((image / columns[1] + columns[0]) / 255)


def _bytes(values: Array) -> NDArray[np.uint8]:
    """Values from 0 to 1 as bytes; what lies outside is cut off."""
    return (255 * np.clip(values, 0.0, 1.0)).round().astype(np.uint8)


def _in_order(pixels: NDArray[np.uint8], color: str) -> NDArray[np.uint8]:
    """(C, H, W) as (H, W, C), red first."""
    image = pixels.transpose(1, 2, 0)
    return image[:, :, ::-1] if image.shape[2] == 3 and color == "bgr" else image


def _fitted(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = _SIDE / max(pixels.shape[:2])
    if 0.5 <= factor <= 1.5:
        return pixels
    if factor > 1:  # whole steps keep small images sharp
        step = int(factor)
        return pixels.repeat(step, 0).repeat(step, 1)
    return resize(pixels, (max(1, round(pixels.shape[0] * factor)), max(1, round(pixels.shape[1] * factor))))


def _uri(pixels: NDArray[np.uint8]) -> str:
    try:
        from PIL import Image  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("showing inputs and outputs", "Pillow", "torch") from error
    image: Any = Image.fromarray(
        np.ascontiguousarray(_fitted(pixels).squeeze(2 if pixels.shape[2] == 1 else ()))
    )
    stream = BytesIO()
    image.save(stream, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
