"""Train the nets of this folder from nothing with `twofold finetune`.

Usage: python train.py [vgg] [resnet]

`make_data.py` must have written the databases. An interrupted training goes on where it was. The weights end
up beside the prototxts, as vgg.caffemodel and resnet.caffemodel.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from twofold.cli import main as twofold
from twofold.finetune import read_solver

HERE = Path(__file__).resolve().parent
NETS = ("vgg", "resnet")


def main() -> int:
    """Train the nets that are named, or all; gives the exit code."""
    os.chdir(HERE)
    for name in sys.argv[1:] or NETS:
        solver = f"{name}_solver.prototxt"
        code = twofold(["finetune", solver, "-o", "out", "--resume"])
        if code:
            return code
        last = read_solver(solver).max_iter
        shutil.copyfile(f"out/{name}_iter_{last}.caffemodel", f"{name}.caffemodel")
    return 0


if __name__ == "__main__":
    sys.exit(main())
