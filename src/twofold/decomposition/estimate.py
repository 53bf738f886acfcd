"""How long a calibrated run will take, and how much memory: from one forward, sizes of layers, and a clock.

The parts are counted, not remembered: samples times forwards, operations of the linear algebra over the rate
that this machine shows at the moment. It is right within a factor of two or three, and says "about".
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..calibration.gather import GRADIENT_SAMPLES, LARGEST_METRIC, Extent, layer_options
from ..calibration.memory import peak_memory
from ..calibration.statistics import covariance_bytes, patch_size
from ..conv import ConvLayer
from ..lowrank import scheme
from ..lowrank.spectra import one_thread
from ..planning import Request
from .calibrate import CORRECTED_BY, Calibration
from .sensitivity import TRIED

#: Seconds after which nothing is timed again.
_PATIENCE = 1.0
#: Sides of the matrices whose product shows the machine's rate.
_SIDE = 384
#: A machine computes this many times as many products in float32 as in float64.
_SINGLE = 2.0
#: Fits that judge the shrinkage of a layer's covariance, at most.
_JUDGED = 4
#: Passes over the held-out samples behind the plan: the original and four others, and the outputs of two.
_LAST_PASSES = 7
#: A forward with gradients takes so many plain ones.
_BACKWARD = 3.0


@dataclass(frozen=True)
class Estimate:
    """What a run will take, in seconds and bytes.

    Attributes:
        statistics: collecting what layers are given.
        fits: fitting them.
        effects: measuring what each does to the outputs.
        rest: stacks at the chosen ranks, and what is measured of the whole network.
        memory: bytes that the process holds at least: what one batch in the network took it to, and
            samples, weights and covariances.
    """

    statistics: float
    fits: float
    effects: float
    rest: float
    memory: int

    @classmethod
    def of(
        cls, calibration: Calibration, layers: Sequence[ConvLayer], wanted: Mapping[str, Sequence[Request]],
        refine: int = 0,
    ) -> Estimate:  # fmt: skip
        """Run one sample, and count.

        Args:
            calibration: inputs and what runs them.
            layers: those that may be decomposed.
            wanted: what is fitted of each.
            refine: see `FitOptions`.
        """
        forward, rate = _forward(calibration), _SINGLE * _rate()
        fitted, holdout = calibration.inputs.count, calibration.holdout.count
        extent = Extent.of(layers, calibration.options)
        moments = sum(2.0 * _rows(layer, calibration, extent) * _square(layer) for layer in layers)
        gradients = calibration.options.gradients and calibration.runner.differentiable
        backward = _BACKWARD * min(fitted, GRADIENT_SAMPLES) if gradients else 0.0
        judging = holdout if calibration.has_holdout else 0
        works = [_fitting(layer, wanted[layer.name], refine, judged=bool(judging)) for layer in layers]
        work, chosen = (sum(one) for one in zip(*works, strict=True))
        trials = len(TRIED) * len(layers) * calibration.sensitivity_inputs.count
        return cls(
            (fitted + backward) * forward + moments / rate,
            judging * forward + work / rate,
            trials * forward / 2,  # what lies behind a layer: half of the network in the mean
            (_LAST_PASSES * holdout + 2 * min(CORRECTED_BY, fitted)) * forward + chosen / rate,
            peak_memory() + _memory(calibration, layers, extent),
        )

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return self.statistics + self.fits + self.effects + self.rest

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"seconds": self.seconds, **asdict(self)}

    def __str__(self) -> str:
        parts = {
            "statistics": self.statistics, "fits": self.fits, "effects of layers": self.effects,
            "stacks and errors": self.rest,
        }  # fmt: skip
        told = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in parts.items())
        amount = _amount(self.memory)
        return f"about {_duration(self.seconds)} and at least {amount} of memory ({told})"


def layer_work(
    layer: ConvLayer, requests: Sequence[Request], refine: int, calibration: Calibration | None
) -> float:
    """Operations of a layer's statistics and fits, to compare layers by.

    Args:
        layer: the layer.
        requests: what is fitted of it.
        refine: see `FitOptions`.
        calibration: None for the weights alone.
    """
    if calibration is None:
        return _fitting(layer, requests, refine, judged=False)[0]
    positions = layer_options(layer, calibration.inputs, calibration.options, frozenset()).positions
    rows = _seen(layer, calibration.inputs.count, positions)
    fits = sum(_fitting(layer, requests, refine, judged=calibration.has_holdout))
    return 2 * rows * _square(layer) + fits


def _forward(calibration: Calibration) -> float:
    """Seconds of a sample in the network, within a batch of the usual size."""
    batch = calibration.first()
    return _seconds(lambda: calibration.runner.run(batch)) / len(next(iter(batch.values())))


def _seconds(work: Callable[[], object]) -> float:
    """Of one repetition: the median of three, or the first where that lasts."""
    times: list[float] = []
    while len(times) < 3 and sum(times) < _PATIENCE:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return max(sorted(times)[len(times) // 2], 1e-9)


def _rate() -> float:
    """Operations per second of a product of float64 matrices, with all threads or with one.

    Beside other programs threads wait for one another, and one is the faster; the longest fits take one.
    """
    a = np.random.default_rng(0).standard_normal((_SIDE, _SIDE))
    with one_thread():
        alone = _seconds(lambda: a @ a)
    return 2 * _SIDE**3 / min(alone, _seconds(lambda: a @ a))


def _rows(layer: ConvLayer, calibration: Calibration, extent: Extent) -> float:
    """Patches of a layer that are looked at."""
    positions = extent.options(layer, calibration.inputs, calibration.options).positions
    return _seen(layer, calibration.inputs.count, positions)


def _seen(layer: ConvLayer, count: int, positions: int) -> float:
    outputs = [math.prod(layer.geometry.output_size(size)) for size in layer.input_sizes] or [positions]
    return float(count * sum(min(positions, one) for one in outputs))


def _square(layer: ConvLayer) -> float:
    return float(layer.geometry.groups * patch_size(layer.geometry) ** 2)


def _fitting(
    layer: ConvLayer, requests: Sequence[Request], refine: int, *, judged: bool
) -> tuple[float, float]:
    """Operations of the fits of a layer, and of the dearest stack that may be chosen."""
    works = [scheme(one.scheme).work(layer.geometry, one.variant, refine) for one in requests]
    fits, stacks = zip(*works, strict=True)
    judging = next((fit for one, fit in zip(requests, fits, strict=True) if scheme(one.scheme).nested), 0.0)
    return sum(fits) + (_JUDGED * judging if judged else 0.0), max(stacks)


def _memory(calibration: Calibration, layers: Sequence[ConvLayer], extent: Extent) -> int:
    full = [layer for layer in layers if layer.name in extent.full]
    samples = {id(one): one for one in (calibration.inputs, calibration.holdout)}.values()
    kept = sum(array.nbytes for one in samples for array in one.arrays.values())
    weights = sum(layer.weight.nbytes for layer in layers if layer.weight is not None)
    covariances = sum(8 * int(_square(layer)) for layer in full)
    largest = max((covariance_bytes(one.geometry) for one in full), default=0)
    if calibration.options.gradients and calibration.runner.differentiable:
        outputs = [layer.geometry.c_out for layer in layers if layer.geometry.c_out <= LARGEST_METRIC]
        covariances += sum(8 * count**2 for count in outputs)
        largest = max(largest, 3 * 8 * max(outputs, default=0) ** 2)  # of one, its two roots and its vectors
    return kept + 3 * weights + covariances + largest


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _amount(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
