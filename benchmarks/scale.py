"""What a run costs as models grow: CPU time by the number of layers, peak memory by the size of the weights.

Every row is a run of the installed command in a process of its own, on a net of random weights. What it wrote
is opened again and its cost checked before a number counts.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from twofold.planning import Plan

#: Layers of 64 channels, 3x3.
LAYERS = (100, 200, 400, 800)
#: Channels and 3x3 layers of a net whose weights take 368 MB.
WIDE, DEEP = 512, 39
#: Seconds of CPU for the most layers, and the exponent by which they may grow; memory over the weights' size.
SECONDS, GROWTH, WITHOUT, WITH = 15.0, 1.1, 2.0, 3.0


def chain(path: Path, channels: int, layers: int, size: int) -> int:
    """Write a chain of convolutions with ReLU between them; gives the bytes of its weights."""
    generator = np.random.default_rng(0)
    scale = np.float32(math.sqrt(2 / (9 * channels)))
    nodes, weights, last = [], [], "x"
    for index in range(layers):
        weight = scale * generator.standard_normal((channels, channels, 3, 3), np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(
            helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], f"conv{index}", pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"))
        last = f"r{index}"
    shape = (1, channels, size, size)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", last)]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return layers * channels * channels * 9 * 4


def run(net: Path, folder: Path, *options: str) -> tuple[float, float]:
    """Run the command; gives seconds of CPU and peak memory in bytes."""
    argv = [
        sys.executable,
        "-m",
        "twofold",
        "decompose",
        str(net),
        "-o",
        str(folder),
        "--no-report",
        *options,
    ]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}")
    plan = Plan.load(folder / "plan.json")
    if not plan.choices or plan.totals.macs_ratio > 0.5:
        raise RuntimeError(f"{folder}: nothing was gained")
    return usage.ru_utime + usage.ru_stime, 1024.0 * usage.ru_maxrss


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a limit is not kept."""
    failed = 0
    table = Table("3x3 layers of 64 channels", "CPU seconds", "exponent", title="weights only, --macs 0.5")
    last: tuple[int, float] | None = None
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        for layers in LAYERS:
            chain(base / "net.onnx", 64, layers, 8)
            seconds, _ = run(base / "net.onnx", base / str(layers), "--no-data", "--macs", "0.5")
            growth = math.log(seconds / last[1]) / math.log(layers / last[0]) if last else math.nan
            table.add_row(str(layers), f"{seconds:.1f}", "" if last is None else f"{growth:.2f}")
            last = (layers, seconds)
        failed += seconds > SECONDS
        Console().print(table)
        size = chain(base / "wide.onnx", WIDE, DEEP, 16)
        _, start = run_tiny(base)
        memory = Table(
            "", "peak / weights", "less a tiny net's", "at most",
            title=f"{size / 1e6:.0f} MB of weights, --macs 0.5",
        )  # fmt: skip
        for label, options, most in (
            ("weights only", ("--no-data",), WITHOUT),
            (
                "24 synthetic inputs",
                (
                    "--data",
                    str(samples(base, 24)),
                ),
                WITH,
            ),
        ):
            _, peak = run(base / "wide.onnx", base / label, "--macs", "0.5", *options)
            ratio = (peak - start) / size
            failed += ratio > most
            memory.add_row(label, f"{peak / size:.2f}", f"{ratio:.2f}", f"{most:g}")
        Console().print(memory)
    return min(failed, 1)


def samples(base: Path, count: int) -> Path:
    """Inputs of the wide net."""
    path = base / "samples.npy"
    np.save(path, np.random.default_rng(1).standard_normal((count, WIDE, 16, 16), np.float32))
    return path


def run_tiny(base: Path) -> tuple[float, float]:
    """The same command on a tiny net: what Python and its libraries take."""
    chain(base / "tiny.onnx", 16, 2, 8)
    np.save(base / "tiny.npy", np.random.default_rng(1).standard_normal((24, 16, 8, 8), np.float32))
    return run(
        base / "tiny.onnx",
        base / "tiny",
        "--macs",
        "0.5",
        "--multiple",
        "4",
        "--data",
        str(base / "tiny.npy"),
    )


if __name__ == "__main__":
    sys.exit(main())
