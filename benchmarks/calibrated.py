"""What calibration gains: output errors at equal MACs beside the reference's rule, and what a run costs.

Every row is a run of the installed command in a process of its own; what it wrote is loaded and run on
photographs that no run has seen. The error is ||out - ref|| / ||ref - mean(ref)|| of the logits, the root of
the mean of squares where there are several.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from zoo.models import RealModel, model
from zoo.photographs import as_inputs, crops, face_photographs, photographs

import twofold
from twofold.calibration.detections import OVERLAP, SCORE, overlap
from twofold.calibration.measure import OutputErrorMetric
from twofold.calibration.pixels import read_pixels, resize
from twofold.calibration.runners import runner_for
from twofold.planning import Plan

HELD_OUT = 12


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        model: name of the real model.
        label: in words.
        options: of the command.
        crops: number of crops of photographs to calibrate on; 0 for none.
        limit: largest error that the row may have: absolute, or as a share of the reference's; None for the
            reference itself.
    """

    model: str
    label: str
    options: tuple[str, ...]
    crops: int = 0
    limit: float | None = None


CASES = (
    Case("hed", "the reference's rule", ("--rule", "amct")),
    Case("hed", "weights only", ("--no-data",)),
    Case("hed", "synthetic images", ("--macs", "0.393"), limit=0.08),
    Case("hed", "66 crops", ("--macs", "0.393"), crops=66, limit=0.010),
    Case("hed", "66 crops", ("--macs", "0.20"), crops=66, limit=0.030),
    *(
        case
        for name in ("nsfw", "res10-ssd")
        for case in (
            Case(name, "the reference's rule", ("--rule", "amct")),
            Case(name, "weights only", ("--no-data",)),
            Case(name, "synthetic images", (), limit=2 / 3),
            Case(name, "88 crops", (), crops=88, limit=1 / 3),
            Case(name, "88 crops, and synthetic images", ("--synthetic", "66"), crops=88, limit=1 / 3),
        )
    ),
)


def inputs_of(
    real: RealModel, images: dict[str, NDArray[np.uint8]], count: int, seed: int
) -> NDArray[np.float32]:
    """Crops of photographs as a net takes them."""
    options = real.options
    mean = options.mean if isinstance(options.mean, tuple) else (0.0, 0.0, 0.0)
    cut = crops(images, count, real.size, seed)
    return as_inputs(cut, options.color or "bgr", mean, options.scale or 1.0)


def run(real: RealModel, case: Case, folder: Path) -> tuple[float, float]:
    """Run the command; gives seconds and peak memory in GB."""
    argv = [sys.executable, "-m", "twofold", "decompose", str(real.prototxt), str(real.caffemodel)]
    argv += ["-o", str(folder / "out"), *case.options]
    if case.crops:
        data = folder / "crops.npy"
        np.save(data, inputs_of(real, photographs().calibration, case.crops, seed=0))
        argv += ["--data", str(data)]
    start = time.perf_counter()
    code = (
        "import resource, subprocess, sys; "
        "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - start, int(done.stdout.split()[-1]) / 1e6


def error(real: RealModel, folder: Path) -> float:
    """Error of what was written, on photographs that were not used to calibrate."""
    before = runner_for(twofold.load(real.prototxt, real.caffemodel))
    after = runner_for(twofold.load(*written(real, folder)), before.outputs)
    measure = OutputErrorMetric()
    for sample in inputs_of(real, photographs().holdout, HELD_OUT, seed=1):
        batch = {real.input: sample[None]}
        measure.add("", before.run(batch), after.run(batch))
    return measure.error("")


def written(real: RealModel, folder: Path) -> tuple[Path, Path]:
    """The files of the decomposed net."""
    return folder / "out" / real.prototxt.name, folder / "out" / real.caffemodel.name


def faces(real: RealModel, folder: Path) -> str:
    """How many of the faces that the original finds in the package's photographs are found again."""
    options = real.options
    mean = options.mean if isinstance(options.mean, tuple) else (0.0, 0.0, 0.0)
    nets = [
        runner_for(twofold.load(*files), (real.output,))
        for files in ((real.prototxt, real.caffemodel), written(real, folder))
    ]
    again = total = 0
    for path in face_photographs():
        image = resize(read_pixels(path, "rgb"), real.size)
        batch = {real.input: as_inputs([image], "bgr", mean, 1.0)}
        rows = [net.run(batch)[real.output].reshape(-1, 7) for net in nets]
        kept = [found[found[:, 2] >= score] for found, score in zip(rows, (SCORE, 0.0), strict=True)]
        total += len(kept[0])
        again += sum(any(overlap(a[3:], b[3:]) > OVERLAP for b in kept[1]) for a in kept[0])
    return f"{again} of {total} faces"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="only these models")
    chosen = parser.parse_args(argv).model
    failed = 0
    for name in dict.fromkeys(case.model for case in CASES):
        if chosen and name not in chosen:
            continue
        real, reference = model(name), 0.0
        table = Table("", "MACs", "output error", "at most", "seconds", "peak GB", "", title=name)
        for case in (case for case in CASES if case.model == name):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                seconds, memory = run(real, case, folder)
                lost = error(real, folder)
                ratio = Plan.load(folder / "out" / "plan.json").totals.macs_ratio
                note = faces(real, folder) if name == "res10-ssd" else ""
            reference = reference or lost
            limit = None if case.limit is None else case.limit * (1.0 if name == "hed" else reference)
            failed += limit is not None and lost > limit
            bound = "" if limit is None else f"{limit:.4f}"
            table.add_row(
                case.label, f"{ratio:.3f}", f"{lost:.4f}", bound, f"{seconds:.0f}", f"{memory:.1f}", note
            )
        Console().print(table)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
