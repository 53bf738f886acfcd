"""What HED's output loses at the reference's MACs, without data and without fine-tuning.

The error is ||out - ref|| / ||ref - mean(ref)|| over the fused logits, on crops of photographs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from rich.console import Console
from rich.table import Table

import twofold
from benchmarks.models import model
from benchmarks.photographs import as_inputs, crops, photographs
from twofold.formats.caffe.model import CaffeModel

COUNT, BATCH, SEED = 12, 4, 1
PLANS: Mapping[str, dict[str, str]] = {"the reference's rule (--rule amct)": {"rule": "amct"}, "twofold": {}}


def outputs(net: CaffeModel, inputs: torch.Tensor, blob: str) -> torch.Tensor:
    """Values of an output blob for all inputs."""
    module = net.to_torch().eval()
    with torch.no_grad():
        return torch.cat([module(part, blobs=[blob])[blob] for part in inputs.split(BATCH)])


def main() -> int:
    """Measure and print; gives the exit code."""
    hed = model("hed")
    mean = hed.options.mean
    assert isinstance(mean, tuple)
    pictures = crops(photographs().held_out, COUNT, hed.size, seed=SEED)
    inputs = torch.from_numpy(as_inputs(pictures, "bgr", mean, 1.0))
    original = twofold.load(hed.prototxt, hed.caffemodel)
    ref = outputs(original, inputs, hed.output)
    table = Table("HED 320x320", "ratio of MACs", "output error", title=f"{COUNT} crops, weights only")
    for name, options in PLANS.items():
        result = twofold.decompose(original, **options)  # type: ignore[arg-type]
        lost = outputs(result.model, inputs, hed.output) - ref
        error = float(lost.norm() / (ref - ref.mean()).norm())
        table.add_row(name, f"{result.plan.totals.macs_ratio:.3f}", f"{error:.3f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
