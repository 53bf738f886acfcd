"""Text that is found and read: what two networks lose of it when they are decomposed without any training.

CRAFT, a text detector (VGG-16 with BatchNorm, a PyTorch module) finds drawn words on photographs: the F-score
of its boxes against those that were drawn, one box for one word where they overlap by half. ddddocr, an ONNX
file, reads drawn captchas: those that it reads without a mistake, upper and lower case taken for the same.
Both are fitted to drawn images of other photographs, and with other texts, than they are judged on. Output
error is ||out - ref|| / ||ref - mean(ref)||. Takes about twenty minutes of one core, most of it for CRAFT.

    python -m benchmarks.words [--only craft|ddddocr] [--macs RATIO]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from zoo.onnx_models import ONNX_FILES, captcha_characters, read_text
from zoo.photographs import photographs
from zoo.words import Page, captchas, pages

import twofold
from twofold.backends import as_model
from twofold.calibration.detections import overlap
from twofold.calibration.measure import OutputErrorMetric
from twofold.calibration.runners import runner_for
from twofold.formats.base import Model

Floats = NDArray[np.float32]

#: Sides of the pages.
SIDE = 256
#: Of CRAFT's maps: from where a pixel belongs to a word, and what its highest must reach.
REGION, AFFINITY, PEAK = 0.4, 0.4, 0.7
#: The maps are hills that end before the characters do: boxes grow by this share of their shorter side.
GROWTH = 0.05
OVERLAP = 0.5


def words(maps: Floats) -> NDArray[np.float32]:
    """Boxes of the words that CRAFT's maps show.

    Pixels of either map above a threshold are one component per word (section 3.3 of the paper).

    Args:
        maps: (2, H / 2, W / 2), region and affinity.

    Returns:
        (N, 4), xmin, ymin, xmax, ymax in pixels of the input; the upper ends are outside.
    """
    region, affinity = maps
    mask = ((region > REGION) | (affinity > AFFINITY)).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    found = []
    for label in range(1, count):
        if region[labels == label].max() < PEAK:
            continue
        left, top, width, height, _ = stats[label]
        grown = GROWTH * min(width, height)
        found.append((left - grown, top - grown, left + width + grown, top + height + grown))
    return 2 * np.array(found, np.float32).reshape(-1, 4)


def matches(found: NDArray[Any], drawn: NDArray[Any]) -> int:
    """How many boxes can be paired one to one, each with the one that it overlaps most."""
    pairs = [(overlap(one, other), i, j) for i, one in enumerate(found) for j, other in enumerate(drawn)]
    left: set[int] = set()
    right: set[int] = set()
    for share, i, j in sorted(pairs, reverse=True):
        if share >= OVERLAP and i not in left and j not in right:
            left.add(i)
            right.add(j)
    return len(left)


def f_score(found: Sequence[NDArray[Any]], judged: Sequence[Page]) -> float:
    """Harmonic mean of precision and recall over all pages, in percent."""
    paired = sum(matches(boxes, page.boxes) for boxes, page in zip(found, judged, strict=True))
    return 100 * 2 * paired / (sum(map(len, found)) + sum(len(page.boxes) for page in judged))


@dataclass(frozen=True)
class Bench:
    """A network with its data.

    Attributes:
        original: what twofold decomposes.
        calibration: inputs to fit to, (N, C, H, W).
        judged: inputs to judge on, likewise.
        answer: boxes or text, from the output for one input.
        score: percent that is right of the answers for `judged`.
    """

    original: Model
    calibration: Floats
    judged: Floats
    answer: Callable[[Floats], Any]
    score: Callable[[Sequence[Any]], float]

    def compare(self, model: Model) -> tuple[float, float, float]:
        """Scores of the original and of another, and the other's output error."""
        before = runner_for(self.original)
        after = runner_for(model, before.outputs)
        (name,), (output,) = before.inputs, before.outputs
        measure = OutputErrorMetric()
        answers: tuple[list[Any], list[Any]] = [], []
        for x in self.judged:
            both = [runner.run({name: x[None]}) for runner in (before, after)]
            measure.add("", *both)
            for kept, outputs in zip(answers, both, strict=True):
                kept.append(self.answer(outputs[output].squeeze()))
        first, second = map(self.score, answers)
        return first, second, measure.error("")


def craft_bench(fitted: int = 32, judged: int = 120) -> Bench:
    """CRAFT on drawn words."""
    import torch  # noqa: PLC0415 - the other network does without PyTorch
    from zoo.craft import craft  # noqa: PLC0415 - the same

    file, shots = ONNX_FILES["craft"], photographs()
    shown = pages(shots.calibration, fitted, SIDE, seed=0)
    others = pages(shots.holdout, judged, SIDE, seed=1)
    return Bench(
        as_model(craft(), torch.zeros(1, 3, SIDE, SIDE)),
        np.concatenate([file.normalized(page.image) for page in shown]),
        np.concatenate([file.normalized(page.image) for page in others]),
        words,
        lambda found: f_score(found, others),
    )


def ddddocr_bench(fitted: int = 128, judged: int = 500) -> Bench:
    """ddddocr on drawn captchas."""
    file, characters = ONNX_FILES["ddddocr"], captcha_characters()
    shown, others = captchas(fitted, seed=0), captchas(judged, seed=1)
    return Bench(
        twofold.load(file.path, inputs={file.input: file.shape}),
        np.concatenate([file.normalized(one.image) for one in shown]),
        np.concatenate([file.normalized(one.image) for one in others]),
        lambda output: read_text(output[None], characters).lower(),
        lambda texts: 100 * float(np.mean([a == b.text for a, b in zip(texts, others, strict=True)])),
    )


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        make: gives the network with its data.
        macs: after / before.
        least: percent that the original must have: with less, it is run wrongly or judged wrongly.
        lost: points that may be lost.
    """

    make: Callable[[], Bench]
    macs: float
    least: float
    lost: float


CASES = {"craft": Case(craft_bench, 0.35, 85.0, 1.0), "ddddocr": Case(ddddocr_bench, 0.5, 85.0, 2.0)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if an original is not what it should be, or too much is lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=CASES, help="only these networks")
    parser.add_argument("--macs", type=float, help="another ratio, at which no loss is too much")
    given = parser.parse_args(argv)
    table = Table("network", "MACs", "right before, %", "after, %", "points lost", "at most", "output error",
                  "seconds", title="Text")  # fmt: skip
    failed = False
    for name in given.only or CASES:
        case = CASES[name]
        bench = case.make()
        start = time.perf_counter()
        result = twofold.decompose(bench.original, data=bench.calibration, macs=given.macs or case.macs)
        seconds = time.perf_counter() - start
        before, after, error = bench.compare(result.model)
        print(
            f"{name}: {before:.2f} before, {after:.2f} after, error {error:.4f}", file=sys.stderr, flush=True
        )
        failed |= before < case.least or (given.macs is None and before - after > case.lost)
        table.add_row(
            name, f"{result.plan.totals.macs_ratio:.3f}", f"{before:.2f}", f"{after:.2f}",
            f"{before - after:.2f}", f"{case.lost:.1f}", f"{error:.4f}", f"{seconds:.0f}",
        )  # fmt: skip
    Console(width=120).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
