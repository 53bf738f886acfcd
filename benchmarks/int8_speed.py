"""Int8 where it is deployed: a network and its decomposed form, both in float32 and in int8, timed in turn.

Each form is timed beside the original in float32; errors are taken on crops of photographs that no form has
seen, of what the network gives: ||out - ref|| / ||ref - mean(ref)||, the root of the mean of squares where
there are several outputs.

    python -m benchmarks.int8_speed [--model NAME ...] [--macs RATIO]
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from zoo.models import model
from zoo.photographs import photographs

import twofold
from benchmarks.calibrated import HELD_OUT, inputs_of
from twofold.calibration.measure import OutputErrorMetric
from twofold.calibration.runners import runner_for
from twofold.errors import ModelError
from twofold.formats.base import Model
from twofold.latency.choose import here

RUNTIMES, THREADS, CROPS = ("onnxruntime", "openvino"), 2, 66


def error(name: str, original: Model, other: Model) -> float:
    """Of another form of a network, on crops that it has not seen."""
    outputs = runner_for(original).network_outputs  # values before them are others' in an int8 file
    reference, changed, measure = (
        runner_for(original, outputs),
        runner_for(other, outputs),
        OutputErrorMetric(),
    )
    (entry,) = reference.inputs
    for sample in inputs_of(model(name), photographs().holdout, HELD_OUT, 1):
        batch = {entry: sample[None]}
        measure.add("", reference.run(batch), changed.run(batch))
    return measure.error("")


def timed(runtime: str, original: Model, other: Model) -> str:
    """Milliseconds and times faster, or why there are none: a runtime may compute something else in int8."""
    try:
        pair = here(runtime, THREADS).pair(original, other)
    except ModelError as problem:
        return str(problem)
    return f"{1e3 * pair.second.median:.1f} ({1 / pair.ratio.median:.2f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", action="append", help="a Caffe network that gives no list of boxes; by default hed"
    )
    parser.add_argument("--macs", type=float, default=0.2, help="of the decomposed form")
    given = parser.parse_args(argv)
    table = Table(
        "network", "form", "MACs", "output error", *(f"{name}, ms (times faster)" for name in RUNTIMES),
        title=f"{THREADS} threads, {platform.machine()}, batch 1",
    )  # fmt: skip
    for name in given.model or ["hed"]:
        real = model(name)
        original = twofold.load(*real.files())
        crops = inputs_of(real, photographs().calibration, CROPS, 0)
        result = twofold.decompose(original, data=crops, macs=given.macs)
        smaller, ratio = result.model, result.plan.totals.macs_ratio
        with tempfile.TemporaryDirectory() as place:
            forms: dict[str, Model] = {"float32": original, "decomposed": smaller}
            for label, one in (("int8", original), ("decomposed, int8", smaller)):
                path = Path(place) / f"{len(forms)}.onnx"
                twofold.quantize(one, path, data=crops)
                forms[label] = twofold.load(path)
            for label, one in forms.items():
                table.add_row(
                    name, label, f"{ratio:.3f}" if "decomposed" in label else "1",
                    f"{error(name, original, one):.4f}",
                    *(timed(runtime, original, one) for runtime in RUNTIMES),
                )  # fmt: skip
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
