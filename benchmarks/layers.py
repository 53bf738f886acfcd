"""One layer's decomposition: time, peak memory and error, beside the reference's procedure in the same run.

    python benchmarks/layers.py            # all shapes
    python benchmarks/layers.py --quick    # those that end within a minute

Weights are random (the flattest spectrum there is, so the hardest for a method that is not a full
decomposition) and float32. `twofold` is what the library does for the scheme `spatial` at the rank that the
reference's rule chooses for such weights: one factorization and the two kernels read from it. The reference's
procedure is two full float64 calls of `numpy.linalg.svd` on the unfolded kernel, one for each side. Every
measurement runs in a process of its own, so that peak memory is its own; imports and making the weights are
not timed. An answer is checked before its time counts: the error of the kernels that came out, measured, is
the predicted one, and it is compared with the optimum, from the reference's singular values, or, where the
reference is not run, from all eigenvalues of the Gram matrix.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from twofold.conv import ConvGeometry, ConvLayer
from twofold.lowrank import SCHEMES
from twofold.lowrank.unfold import Split, unfold
from twofold.planning.amct import AmctRange, amct_round

#: channels, kernel side, whether the reference's procedure ends within minutes, whether it is in the quick
# run.
SHAPES = (
    (512, 5, True, True),
    (1024, 3, True, True),
    (1024, 5, True, False),
    (2048, 3, True, False),
    (2048, 5, False, False),
)
REPEATS = 3
LARGEST_EXCESS = 1.001


@dataclass(frozen=True)
class Row:
    """One shape's results; the reference's are None where it was not run.

    Attributes:
        shape: of the weight.
        rank: that the reference's rule chooses.
        seconds: median of our times.
        peak_mb: our peak memory, MB, weights included.
        reference_seconds: of the reference's procedure, once.
        reference_peak_mb: its peak memory.
        excess: our energy error over the optimum at this rank.
    """

    shape: tuple[int, ...]
    rank: int
    seconds: float
    peak_mb: float
    reference_seconds: float | None
    reference_peak_mb: float | None
    excess: float

    @property
    def ratio(self) -> float | None:
        """How many times faster than the reference's procedure."""
        return self.reference_seconds / self.seconds if self.reference_seconds else None


def _layer(channels: int, side: int) -> ConvLayer:
    geometry = ConvGeometry.of(channels, channels, (side, side), pad=side // 2)
    weight = np.random.default_rng(0).standard_normal(geometry.weight_shape, dtype=np.float32)
    return ConvLayer(f"conv{channels}x{side}", geometry, weight)


def _rank(layer: ConvLayer) -> int:
    # EVBMF finds nothing but noise in random weights, so that the lower end of the reference's range holds.
    return amct_round(AmctRange.of(layer.geometry).low)


def _matrix(layer: ConvLayer, dtype: type = np.float64) -> NDArray[Any]:
    assert layer.weight is not None
    return unfold(layer.weight, layer.geometry, Split((0,), (1,))).astype(dtype)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure_twofold(channels: int, side: int) -> dict[str, Any]:
    """Factorize and read the factors, `REPEATS` times after a small layer to warm up."""
    _decompose(_layer(64, 3), 16)
    layer = _layer(channels, side)
    rank, times = _rank(layer), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        predicted, V, H = _decompose(layer, rank)
        times.append(time.perf_counter() - start)
    peak = _peak_mb()
    measured = _lost(layer, V, H)
    assert abs(measured / predicted - 1) < 1e-4, f"predicted {predicted}, measured {measured}"
    return {"seconds": statistics.median(times), "peak_mb": peak, "error": measured, "rank": rank}


def _decompose(layer: ConvLayer, rank: int) -> tuple[float, NDArray[Any], NDArray[Any]]:
    factorization = SCHEMES["spatial"].factorize(layer, "hw", max_ranks=(rank,))
    first, second = factorization.factors((rank,)).convs
    g = layer.geometry
    V = first.weight.reshape(rank, -1).T
    H = second.weight.reshape(g.c_out, rank, -1).swapaxes(0, 1).reshape(rank, -1)
    return factorization.energy_error((rank,)), V, H


def _lost(layer: ConvLayer, V: NDArray[Any], H: NDArray[Any]) -> float:
    M, lost, whole = _matrix(layer, np.float32), 0.0, 0.0
    for start in range(0, M.shape[1], 1024):
        block = M[:, start : start + 1024]
        lost += float(np.sum((block - V @ H[:, start : start + 1024]) ** 2, dtype=np.float64))
        whole += float(np.sum(block**2, dtype=np.float64))
    return lost / whole


def measure_reference(channels: int, side: int) -> dict[str, Any]:
    """The reference's procedure: one full singular value decomposition for each side."""
    layer = _layer(channels, side)
    M = _matrix(layer)
    start = time.perf_counter()
    U, _, _ = np.linalg.svd(M)
    _, singular, Vt = np.linalg.svd(M)
    seconds = time.perf_counter() - start
    assert U.shape == (len(M),) * 2
    assert Vt.shape == (M.shape[1],) * 2
    return {"seconds": seconds, "peak_mb": _peak_mb(), "optimum": _optimum(singular**2, _rank(layer))}


def measure_optimum(channels: int, side: int) -> dict[str, Any]:
    """The smallest error there is, where the reference's procedure would take too long to tell."""
    layer = _layer(channels, side)
    M = _matrix(layer)
    gram = M @ M.T
    del M
    values = scipy.linalg.eigvalsh(gram, overwrite_a=True, check_finite=False)
    return {"optimum": _optimum(values[::-1], _rank(layer))}


def _optimum(energies: NDArray[Any], rank: int) -> float:
    return float(energies[rank:].sum() / energies.sum())


MEASURES = {"twofold": measure_twofold, "reference": measure_reference, "optimum": measure_optimum}


def _in_process(what: str, channels: int, side: int) -> dict[str, Any]:
    # A workplace may pin OpenBLAS to old kernels, which slows both sides; a user's machine does not.
    environment = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    command = [sys.executable, __file__, "--measure", what, str(channels), str(side)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} on ({channels},{channels},{side},{side}) failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measured_row(channels: int, side: int, with_reference: bool) -> Row:
    """Measure one shape."""
    ours = _in_process("twofold", channels, side)
    other = _in_process("reference" if with_reference else "optimum", channels, side)
    excess = ours["error"] / other["optimum"]
    assert excess <= LARGEST_EXCESS, f"({channels},{channels},{side},{side}): {excess} times the optimum"
    return Row(
        (channels, channels, side, side), ours["rank"], ours["seconds"], ours["peak_mb"],
        other.get("seconds"), other.get("peak_mb"), excess,
    )  # fmt: skip


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[call-overload,index]
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "load": round(os.getloadavg()[0], 1),
    }


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| shape | rank | twofold s | peak MB | reference s | peak MB | times faster | error / optimum |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        other = ["not run", "", ""]
        if row.reference_seconds and row.reference_peak_mb and row.ratio:
            other = [f"{row.reference_seconds:.1f}", f"{row.reference_peak_mb:.0f}", f"{row.ratio:.1f}"]
        shape = ",".join(map(str, row.shape))
        ours = [f"({shape})", str(row.rank), f"{row.seconds:.2f}", f"{row.peak_mb:.0f}"]
        lines.append("| " + " | ".join([*ours, *other, f"{row.excess:.5f}"]) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; with --json the rows and the machine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only the shapes that end within a minute")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        what, channels, side = options.measure
        print(json.dumps(MEASURES[what](int(channels), int(side))))
        return 0
    rows = []
    for channels, side, with_reference, quick in SHAPES:
        if quick or not options.quick:
            print(f"measuring ({channels},{channels},{side},{side})", file=sys.stderr, flush=True)
            rows.append(measured_row(channels, side, with_reference))
    if options.json:
        print(json.dumps({"machine": machine(), "rows": [vars(row) | {"ratio": row.ratio} for row in rows]}))
    else:
        print(", ".join(f"{key} {value}" for key, value in machine().items()))
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
