"""What a recovery without labels gains: HED at a fifth of its MACs, taught by the original.

Both steps are runs of the installed command on crops of photographs, and the error is taken on photographs
that neither has seen: ||out - ref|| / ||ref - mean(ref)|| of the fused logits. A row fails if less than half
of the error goes. Recovery looks at small crops, four in the place of a large one, so that a step sees more
different pictures; and what lies before and behind the last block is learned, too, since the few values of
its own output say little about it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.calibrated import inputs_of
from benchmarks.models import RealModel, model
from benchmarks.photographs import as_inputs, everyday, photographs, varied_crops
from benchmarks.speed import error

MACS, CROPS = "0.20", 66
#: What recovery looks at: crops of photographs and their side; and how it learns from them.
TAUGHT, SIDE, BATCH, STEPS, RATE = 7000, 160, 8, 8500, "1e-3"
HINTS = ("pool4", "conv5_3")
#: Largest share of the error that may be left.
LEFT = 0.5


def _twofold(*argv: str) -> float:
    """Run the command; gives its seconds."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "twofold", *argv], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _varied(real: RealModel) -> NDArray[np.float32]:
    """Small crops of photographs, of many scales."""
    cut = varied_crops(everyday(), TAUGHT, (SIDE, SIDE))
    options = real.options
    assert isinstance(options.mean, tuple), "Bug: HED has a mean per channel"
    return as_inputs(cut, options.color or "bgr", options.mean, options.scale or 1.0)


def main() -> int:
    """Measure and print; 1 if too much of the error is left."""
    hed = model("hed")
    original = hed.files()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        crops = folder / "crops.npy"
        np.save(crops, inputs_of(hed, photographs().calibration, CROPS, seed=0))
        small, taught = folder / "small", folder / "taught"
        files = tuple(map(str, original))
        ours = tuple(small / path.name for path in original)
        table = Table("", "seconds", "output error", title=f"HED, {MACS} of the MACs, {CROPS} crops")
        seconds = _twofold("decompose", *files, "-o", str(small), "--macs", MACS, "--data", str(crops))
        before = error("hed", original, ours)
        table.add_row("decomposed", f"{seconds:.0f}", f"{before:.4f}")
        np.save(crops, _varied(hed))
        seconds = _twofold(
            "recover", *files, *map(str, ours), "-o", str(taught), "--data", str(crops),
            "--input", f"{hed.input}=1x3x{SIDE}x{SIDE}", "--batch", str(BATCH), "--steps", str(STEPS),
            "--rate", RATE, "--limit", "0", *(word for name in HINTS for word in ("--hint", name)), "--bf16",
        )  # fmt: skip
        after = error("hed", original, [taught / path.name for path in original])
        table.add_row("recovered", f"{seconds:.0f}", f"{after:.4f}")
    Console().print(table)
    return int(after > LEFT * before)


if __name__ == "__main__":
    sys.exit(main())
