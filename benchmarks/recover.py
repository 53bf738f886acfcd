"""What recoveries without labels gain: HED at a fifth of its MACs, taught by the original.

All steps are runs of the installed command on crops of photographs, and the error is taken on photographs
that none has seen: ||out - ref|| / ||ref - mean(ref)|| of the fused logits. It fails if less than half of the
error goes. Two recoveries look at small crops, four in the place of a large one, so that a step sees more
different images; and what lies before and behind the last block is learned, too, since the few values of
its own output say little about it. What is judged is the mean of their weights.
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
from zoo.models import RealModel, model
from zoo.photographs import as_inputs, everyday, photographs, varied_crops

from benchmarks.calibrated import inputs_of
from benchmarks.speed import error

MACS, CROPS = "0.20", 66
#: Values inside the net that are learned beside its output.
HINTS = ("pool4", "conv5_3")
#: What a recovery looks at, crops of photographs and their side, and how it learns from them.
TAUGHT, SIDE, BATCH, STEPS, RATE = 7000, 160, 8, 8500, "1e-3"
#: Other crops of the same photographs that are measured, too; these, like the judged ones, were known while
#: settings were chosen.
OTHERS, OTHERS_SEED = 24, 5
#: Largest share of the error that may be left.
LEFT = 0.5


def _twofold(*argv: str) -> float:
    """Run the command; gives its seconds."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "twofold", *argv], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _crops(real: RealModel, seed: int) -> NDArray[np.float32]:
    """Small crops of photographs, of many scales."""
    cut = varied_crops(everyday(), TAUGHT, (SIDE, SIDE), seed)
    options = real.options
    assert isinstance(options.mean, tuple), "Bug: HED has a mean per channel"
    return as_inputs(cut, options.color or "bgr", options.mean, options.scale or 1.0)


def main() -> int:
    """Measure and print; 1 if too much of the error is left."""
    hed = model("hed")
    original = hed.files()
    title = f"HED, {MACS} of the MACs, {CROPS} crops"
    table = Table("", "seconds", "output error", f"of {OTHERS} others", title=title)
    with tempfile.TemporaryDirectory() as place:
        small, first, second, mean = (Path(place) / name for name in ("small", "first", "second", "mean"))

        def models(folder: Path) -> list[str]:
            return [*map(str, original), *(str(folder / path.name) for path in original)]

        def measured(name: str, folder: Path, seconds: float) -> float:
            made = [folder / path.name for path in original]
            found, other = error("hed", original, made), error("hed", original, made, OTHERS, OTHERS_SEED)
            table.add_row(name, f"{seconds:.0f}", f"{found:.4f}", f"{other:.4f}")
            return found

        crops = Path(place) / "crops.npy"
        np.save(crops, inputs_of(hed, photographs().calibration, CROPS, seed=0))
        files = map(str, original)
        seconds = _twofold("decompose", *files, "-o", str(small), "--macs", MACS, "--data", str(crops))
        before = measured("decomposed", small, seconds)
        looked = ["--data", str(crops), "--limit", "0", "--input", f"{hed.input}=1x3x{SIDE}x{SIDE}"]
        for seed, folder in enumerate((first, second)):
            np.save(crops, _crops(hed, seed))
            seconds = _twofold(
                "recover", *models(small), "-o", str(folder), *looked, "--batch", str(BATCH),
                "--steps", str(STEPS), "--rate", RATE, "--seed", str(seed), "--bf16",
                *(word for name in HINTS for word in ("--hint", name)),
            )  # fmt: skip
            measured(f"recovered, seed {seed}", folder, seconds)
        seconds = _twofold(
            "recover", *models(first), "--average-with", str(second), "-o", str(mean), *looked, "--steps", "0"
        )
        after = measured("their mean", mean, seconds)
    Console().print(table)
    return int(after > LEFT * before)


if __name__ == "__main__":
    sys.exit(main())
