"""ONNX networks of two packages, calibrated: what their outputs lose, and whether they still find and read.

Detections are compared on photographs that no calibration has seen: boxes that both networks find, of one
class and overlapping by more than 0.7. Text is read from lines that are drawn with other words than those of
the calibration.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from zoo.onnx_models import ONNX_FILES, OnnxFile, read_text, run, written
from zoo.photographs import crops, photographs

import twofold
from twofold.calibration.detections import overlap
from twofold.calibration.measure import OutputErrorMetric
from twofold.calibration.runners import runner_for

Floats = NDArray[np.float32]

#: Net -> its MACs after / before.
MACS = {"nudenet": 0.7, "ocr-det": 0.85, "ocr-rec": 0.85}
#: Fraction of what the original finds or reads that must be found or read again.
LEAST = {"nudenet": 0.8, "ocr-rec": 0.75}
COUNT = 24
SCORE, OVERLAP = 0.25, 0.7


@dataclass(frozen=True)
class Outcome:
    """What became of one network.

    Attributes:
        ratio: of the MACs.
        predicted: relative error of the protected outputs that the plan predicts.
        measured: the plan's own measurement.
        others: the same on inputs that nobody looked at.
        error: relative error there of the first output, which may be read out of what is protected by a
            sigmoid or softmax: then it is another quantity. Where a map of probabilities is almost
            everywhere 0, as that of text in photographs, only the few places of text count in it.
        kept: what both networks found or read alike, and of how many.
    """

    ratio: float
    predicted: float
    measured: float
    others: float
    error: float
    kept: tuple[int, int]


def outcome(
    name: str, folder: Path, macs: float, *, data: bool = True, side: int | None = None, count: int = COUNT,
    multiple: int = 4, only: Sequence[str] = (),
) -> Outcome:  # fmt: skip
    """Decompose a network, with inputs or by its weights alone, and compare both.

    Args:
        name: of the network.
        folder: where the result is written.
        macs: after / before.
        data: whether there are inputs to calibrate on.
        side: of the images, instead of the network's own.
        count: of the inputs.
        multiple: of which ranks are; every one is tried, which takes most of the time.
        only: patterns of the layers that may be decomposed; all where there is none.
    """
    file = ONNX_FILES[name]
    if side is not None:
        file = replace(file, size=(side, side))
    calibration, holdout = inputs(file, count)
    options = {"data": calibration} if data else {"no_data": True}
    options |= {"macs": macs, "multiple": multiple, "schemes": ("spatial", "channel"), "only": only}
    original = twofold.load(file.path, inputs={file.input: file.shape})
    result = twofold.decompose(original, **options)
    path = result.save(folder)[0]
    protected = OutputErrorMetric()
    runner = runner_for(original)
    runners = runner, runner_for(result.model, runner.outputs)
    for x in holdout:
        protected.add("", *(one.run({file.input: x[None]}) for one in runners))
    ref, out = (
        np.concatenate([run(one, file.input, x[None])[0] for x in holdout]) for one in (file.path, path)
    )
    plan = result.plan
    return Outcome(
        plan.totals.macs_ratio,
        float("nan") if plan.predicted_error is None else plan.predicted_error,
        float("nan") if plan.measured_error is None else plan.measured_error,
        protected.error(""),
        float(np.linalg.norm(out - ref) / np.linalg.norm(ref - ref.mean())),
        _KEPT[name](file, ref, out),
    )


def inputs(file: OnnxFile, count: int = COUNT) -> tuple[Floats, Floats]:
    """Inputs to calibrate on, and others."""
    if file.name == "ocr-rec":
        lines = [_words(seed) for seed in range(count + 12)]
        samples = np.concatenate([file.sample(written(line)) for line in lines])
        return samples[:count], samples[count:]
    shots = photographs()
    return (
        np.concatenate([file.sample(one) for one in crops(shots.calibration, count, file.size)]),
        np.concatenate([file.sample(one) for one in shots.holdout.values()]),
    )


def _words(seed: int) -> str:
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHKLMNPRSTUVWXYZ0123456789"))
    return " ".join("".join(rng.choice(letters, rng.integers(3, 6))) for _ in range(3))


def detections(output: Floats) -> Floats:
    """Boxes of one YOLOv8 output (4 + classes, places): rows of class, score, xmin, ymin, xmax, ymax."""
    centre, size, scores = output[:2], output[2:4], output[4:]
    low, high = centre - size / 2, centre + size / 2
    classes, best = scores.argmax(axis=0), scores.max(axis=0)
    corners = np.concatenate([low, size]).T
    kept = cv2.dnn.NMSBoxesBatched(corners.tolist(), best.tolist(), classes.tolist(), SCORE, 0.45)
    rows = np.concatenate([classes[None], best[None], low, high]).T
    return rows[np.asarray(kept, int).ravel()].astype(np.float32)


def _same_boxes(_: OnnxFile, ref: Floats, out: Floats) -> tuple[int, int]:
    """Boxes that both have, and all boxes of both."""
    same = total = 0
    for one, other in zip(ref, out, strict=True):
        first, second = detections(one), list(detections(other))
        total += max(len(first), len(second))
        for row in first:
            match = next((r for r in second if r[0] == row[0] and overlap(r[2:], row[2:]) > OVERLAP), None)
            if match is not None:
                second = [r for r in second if r is not match]
                same += 1
    return same, total


def _same_places(_: OnnxFile, ref: Floats, out: Floats) -> tuple[int, int]:
    """Pixels that both call text, and those that one does."""
    first, second = ref > 0.3, out > 0.3
    return int((first & second).sum()), int((first | second).sum())


def _same_text(file: OnnxFile, ref: Floats, out: Floats) -> tuple[int, int]:
    """Lines that both read alike."""
    entries = {entry.key: entry.value for entry in onnx.load(file.path).metadata_props}
    characters: Sequence[str] = entries["character"].splitlines()
    texts = [[read_text(one[None], characters) for one in of] for of in (ref, out)]
    return sum(one == other for one, other in zip(*texts, strict=True)), len(ref)


_KEPT = {"nudenet": _same_boxes, "ocr-det": _same_places, "ocr-rec": _same_text}


def main() -> int:
    """Measure and print; 1 if a net that was fitted to inputs finds or reads less than it must."""
    failed = False
    table = Table(
        "net", "fitted to", "MACs", "predicted", "measured", "on others", "output on others",
        "found or read alike",
    )  # fmt: skip
    for name, macs in MACS.items():
        for data in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                one = outcome(name, Path(folder), macs, data=data)
            errors = (f"{value:.4f}" for value in (one.predicted, one.measured, one.others, one.error))
            kept = f"{one.kept[0]} of {one.kept[1]}"
            failed |= data and one.kept[0] < LEAST.get(name, 0.0) * one.kept[1]
            table.add_row(name, "inputs" if data else "weights", f"{one.ratio:.3f}", *errors, kept)
    Console().print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
