"""Accuracy on labels, as a function of whatever predicts: the user's own, or top-1 over a labelled folder."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OptionError, option
from ..progress import track
from ..system import is_dir
from .images import ImageOptions, load_images
from .inputs import Batch, Inputs, SampleShape
from .runner import Outputs

#: Runs a network: a batch of inputs by name to outputs by name.
Predict = Callable[[Batch], Outputs]
#: Measures a network, 1 is perfect.
Accuracy = Callable[[Predict], float]


def top1(folder: str | Path, shapes: Mapping[str, SampleShape], options: ImageOptions) -> Accuracy:
    """Top-1 accuracy over a folder with one subfolder of images per class.

    Subfolders named by numbers are the classes of these indices; others are counted in the order of their
    names.

    Args:
        folder: the folder.
        shapes: input name -> shape of a sample.
        options: how images become inputs; `limit` holds for each class.

    Raises:
        InputError: there are no subfolders, or images that cannot be used.
    """
    folder = Path(folder)
    if not is_dir(folder):
        raise InputError(f"{folder}: no folder; labelled images lie in one subfolder per class")
    classes = sorted(path for path in folder.iterdir() if is_dir(path))
    if not classes:
        raise InputError(f"{folder}: has no subfolders; labelled images lie in one subfolder per class")
    numbered = all(re.fullmatch("[0-9]+", path.name) for path in classes)
    parts: list[tuple[int, Inputs]] = []
    for position, path in enumerate(track(classes, "reading labelled images")):
        index = int(path.name) if numbered else position
        parts.append((index, load_images(path, shapes, replace(options, crops=1))))

    def measure(predict: Predict) -> float:
        right = total = 0
        for label, inputs in track(parts, "measuring accuracy"):
            for batch in inputs:
                scores = _scores(predict(batch))
                if label >= scores.shape[1]:
                    raise InputError(
                        f"{folder}: class {label}, but the network tells {scores.shape[1]} apart"
                    )
                right += int((scores.argmax(axis=1) == label).sum())
                total += len(scores)
        return right / total

    return measure


def _scores(outputs: Outputs) -> NDArray[np.float32]:
    """The scores (N, classes) among a network's outputs."""
    found = [
        value for value in outputs.values() if value.ndim >= 2 and value.size == math.prod(value.shape[:2])
    ]
    if len(found) != 1 or found[0].shape[1] < 2:
        shapes = ", ".join(f"{name} {value.shape}" for name, value in outputs.items())
        raise OptionError(
            f"a labelled folder needs one output with a score per class; the network gives {shapes}. "
            f"Name the output ({option('targets')}), or give a function"
        )
    return found[0].reshape(found[0].shape[:2])
