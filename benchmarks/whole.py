"""HED as a whole, weights only: read, factor, plan, check, write; beside the reference's procedure.

Both work on the same layers in this process, one after the other and twice, so that drift of the machine
shows; the ratio of the medians is what counts. The reference's procedure is two full float64
`numpy.linalg.svd` calls of the unfolded kernel of every layer that its rule decomposes; nothing is read or
written for it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from zoo.models import model

import twofold
from twofold.conv import ConvLayer
from twofold.lowrank.unfold import Split, unfold
from twofold.planning.amct import amct_mode, amct_rejection

REPEATS = 2


def ours(prototxt: Path, caffemodel: Path) -> float:
    """Seconds of a whole run of ours; the written files are checked by the run itself."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = twofold.decompose(twofold.load(prototxt, caffemodel), no_data=True)
        result.save(Path(folder) / "out")
        return time.perf_counter() - start


def reference(layers: list[ConvLayer]) -> float:
    """Seconds of the reference's procedure on the layers that its rule decomposes."""
    start = time.perf_counter()
    for layer in layers:
        assert layer.weight is not None
        first = 0 if amct_mode(layer.geometry).variant == "hw" else 1
        matrix = unfold(layer.weight, layer.geometry, Split((first,), (1 - first,))).astype(np.float64)
        for _ in range(2):
            np.linalg.svd(matrix, full_matrices=True)
    return time.perf_counter() - start


def main() -> int:
    """Measure and print; gives the exit code."""
    hed = model("hed")
    prototxt, caffemodel = hed.prototxt, hed.caffemodel
    layers = [
        layer
        for layer in twofold.load(prototxt, caffemodel).convolutions()
        if isinstance(layer, ConvLayer) and amct_rejection(layer.geometry) is None
    ]
    times = [(ours(prototxt, caffemodel), reference(layers)) for _ in range(REPEATS)]
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    table = Table("HED, whole", "seconds", "ratio", title=f"medians of {REPEATS} interleaved runs")
    table.add_row("twofold: read, factor, plan, check, write", f"{mine:.1f}", "1.0")
    table.add_row("the reference's procedure: factor alone", f"{theirs:.1f}", f"{theirs / mine:.1f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
