"""All measurements that the README quotes: `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = (
    "benchmarks.layers",
    "benchmarks.whole",
    "benchmarks.calibrated",
    "benchmarks.formats",
    "benchmarks.onnx_calibrated",
    "benchmarks.speed",
    "benchmarks.recover",
    "benchmarks.fashion",
    "benchmarks.words",
    "benchmarks.int8",
    "benchmarks.int8_speed",
    "benchmarks.peers",
)


def main() -> int:
    """Run every benchmark in a process of its own; gives the exit code."""
    codes = [
        subprocess.run([sys.executable, "-m", name, *sys.argv[1:]], cwd=ROOT, check=False).returncode
        for name in MODULES
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
