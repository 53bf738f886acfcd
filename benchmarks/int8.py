"""What int8 costs real networks: weights rounded one by one, and to what the layers see.

Both forms have the same ranges. Errors are of the protected outputs, on photographs that gave none of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from zoo.models import RealModel, models
from zoo.onnx_models import ONNX_FILES
from zoo.photographs import as_inputs, crops, photographs

import twofold
from benchmarks.onnx_calibrated import inputs as onnx_inputs
from twofold.backends.exported import as_onnx
from twofold.calibration.inputs import Inputs, Provenance
from twofold.calibration.measure import OutputErrorMetric
from twofold.formats.base import Model
from twofold.int8.qdq import DEQUANTIZED, prepare, session, with_outputs, write_int8
from twofold.int8.weights import round_to_outputs
from twofold.recover.int8 import make_teacher

CALIBRATION, OTHERS = 48, 24
#: ONNX networks that 8 bits do not ruin from the start; the readers of text lose half of what they give.
ONNX = ("nudenet",)

Floats = NDArray[np.float32]


def caffe_inputs(real: RealModel) -> tuple[Floats, Floats]:
    """Inputs to take ranges from, and others."""
    shots, options = photographs(), real.options
    color, mean, scale = options.color or "bgr", options.channel_mean(3), options.scale or 1.0
    return (
        as_inputs(crops(shots.calibration, CALIBRATION, real.size), color, mean, scale),
        as_inputs(crops(shots.holdout, OTHERS, real.size, seed=5), color, mean, scale),
    )


def errors(model: Model, name: str, calibration: Floats, others: Floats) -> tuple[float, float]:
    """Relative error of the outputs with weights rounded one by one, and to what layers see."""
    outputs = make_teacher(model, ()).outputs
    with tempfile.TemporaryDirectory() as place:
        plain, int8 = Path(place) / "plain.onnx", Path(place) / "int8.onnx"
        prepare(as_onnx(model), plain)
        shown, judged = (Inputs({name: x}, Provenance("arrays")).batched(1) for x in (calibration, others))
        write_int8(plain, int8, shown)
        before = error(plain, int8, outputs, judged)
        for note in round_to_outputs(plain, int8, shown):
            print(note, file=sys.stderr)
        return before, error(plain, int8, outputs, judged)


def error(plain: Path, int8: Path, outputs: Sequence[str], inputs: Inputs) -> float:
    """Relative error of an int8 model."""
    float_proto, int8_proto = onnx.load(plain), onnx.load(int8)
    given = {name for node in int8_proto.graph.node for name in node.output}
    names = {one: one + DEQUANTIZED if one + DEQUANTIZED in given else one for one in outputs}
    nets = session(with_outputs(float_proto, names)), session(with_outputs(int8_proto, names.values()))
    measure = OutputErrorMetric()
    for sample in inputs:
        wanted, found = (
            net.run(list(asked), sample) for net, asked in zip(nets, (names, names.values()), strict=True)
        )
        measure.add("", dict(zip(names, wanted, strict=True)), dict(zip(names, found, strict=True)))
    return measure.error("")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a network loses more than a tenth more than one by one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", action="append", choices=[*models(), *ONNX], help="only these nets")
    options = parser.parse_args(argv)
    table = Table("network", "one by one", "to what layers see", "ratio", title="error of int8")
    failed = False
    for name in options.net or [*models(), *ONNX]:
        if name in ONNX:
            file = ONNX_FILES[name]
            model, key = twofold.load(file.path, inputs={file.input: file.shape}), file.input
            before, after = errors(model, key, *onnx_inputs(file))
        else:
            real = models()[name]
            model = twofold.load(real.prototxt, real.caffemodel)
            before, after = errors(model, real.input, *caffe_inputs(real))
        failed |= after > 1.1 * before
        print(f"{name}: {before:.4f} -> {after:.4f}", file=sys.stderr, flush=True)
        table.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{after / before:.2f}")
    Console(width=100).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
