"""A trained Caffe network made faster, step by step, offline: `make demo`.

The net is the example's VGG-like one for Fashion-MNIST. Half of the test images that are shipped with it
stand for the user's images, whose labels are not used; the other half tells the accuracy.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from zoo.fashion_mnist import Images, example, shipped, top1
from zoo.packages import ROOT

import twofold
from twofold.calibration.runners import runner_for
from twofold.calibration.source import CalibrationSource
from twofold.formats.base import Model
from twofold.recover import RecoverOptions

OUT = ROOT / "out" / "demo"
MACS = 0.35
STEPS = 300


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo, and write into a folder; gives the exit code."""
    out = Path(argv[0]) if argv else OUT
    images = shipped()
    half = len(images.labels) // 2
    given = images.pixels[:half]
    source = CalibrationSource(data=Images(given, images.labels[:half]).inputs())
    judge = Images(images.pixels[half:], images.labels[half:])
    found: list[tuple[str, float]] = []

    def count(step: str, model: Model) -> None:
        found.append((step, top1(runner_for(model), judge)))

    original = example("vgg")
    count("original", original)

    print(f"1. Decompose: {MACS:.0%} of the MACs, fitted to {half} images without labels\n")
    result = twofold.decompose(original, macs=MACS, data=source.data)
    result.save(out / "decomposed", force=True)
    print(result.plan)
    count("decomposed", result.model)

    print("\n2. Recover: the original teaches the decomposed net, without labels\n")
    recovery = twofold.recover(original, result.model, source, RecoverOptions(steps=STEPS))
    recovery.model.save_to(out / "recovered", force=True, extra={}, check=lambda written: None)
    print(recovery)
    count("recovered", recovery.model)

    print("\n3. Quantize: int8, as ONNX\n")
    quantized = twofold.quantize(recovery.model, out / "vgg_int8.onnx", source, force=True)
    print(quantized)
    count("recovered, int8", twofold.load(quantized.path))

    print("\n4. Time, and what the outputs have become\n")
    print(twofold.compare(original, recovery.model, source))

    print(f"\nNamed rightly, of {len(judge.labels)} other images:")
    for step, percent in found:
        print(f"  {step:16} {percent:5.1f} %")
    print(f"\nwritten into {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
