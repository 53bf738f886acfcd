"""One pass over the calibration inputs: the statistics of all layers at once.

**The gradient.** Let y be what a layer gives at one position, and f the protected outputs of the network. A
change d of y changes f by J d to first order. Over inputs, positions and a random projection v of f, the mean
of (J^T v)(J^T v)^T is G = E[J^T J]: the metric in which a layer's errors reach the outputs. One backward pass
gives a sample of J^T v for every position of every layer (Hutchinson, 1990; Martens and Grosse, 2015,
section 3, for the factored form with the covariance of the inputs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conv import Array, ConvLayer, Factors, FactorStatistics, LayerStatistics
from ..errors import InputError, OptionError, remedy
from ..lowrank.groups import one_group
from ..progress import track
from ..renamed import former_fields
from .grouped import accumulator, factor_accumulator
from .inputs import Inputs
from .memory import SHARE, free_memory, share_out
from .runner import Runner
from .shrink import shrunk
from .statistics import StatisticsOptions, patch_size
from .vectors import another_pass_fits, one_tap, over_the_limit

#: Patches per value of a patch that are looked at where the user does not say how many positions: enough for
#: covariances whose small eigenvalues still mean something.
PATCHES_PER_VALUE = 6
FEWEST_POSITIONS = 256
#: Samples whose gradient is taken; G is small, and few of them settle it.
GRADIENT_SAMPLES = 32
_GRADIENT_POSITIONS = 4096
#: Outputs of a layer above which their metric is left out: it takes the square of them, and the cube to be
#: decomposed. Layers of so many outputs are mostly the last, where the metric says nothing.
LARGEST_METRIC = 4096


@former_fields(made_up="synthetic")
@dataclass(frozen=True)
class CalibrationOptions:
    """How a network is looked at.

    Attributes:
        memory: bytes that covariances may take in all; None for a fraction of what is free.
        positions: output positions looked at in each image; None for as many as each layer's patch needs.
        gradients: whether fits weight a layer's output by how much the network's outputs depend on it.
        batch_statistics: whether batch normalisation uses the batch's own mean and variance meanwhile; None
            for synthetic images in a range that is only assumed, and for those of Caffe nets. Errors are
            measured on the network as it runs, with the statistics that it stores.
        synthetic: number of synthetic images; None for 66 where there are no inputs, and none beside inputs.
        seed: of the draw of positions and projections.
    """

    memory: int | None = None
    positions: int | None = None
    gradients: bool = True
    batch_statistics: bool | None = None
    synthetic: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory < 1:
            raise OptionError(f"memory is a positive number of bytes, got {self.memory}")
        if self.synthetic is not None and self.synthetic < 0:
            raise OptionError(f"synthetic images are counted from 0, got {self.synthetic}")
        if self.positions is not None and self.positions < 1:
            raise OptionError(f"positions per image must be 1 or more, got {self.positions}")


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a calibration gathered.

    Attributes:
        layers: statistics by layer name.
        record: what they were gathered from and how, as plain JSON values.
        notes: what a user should know.
        keys: a hash of all that they depend on, by layer name; empty where there is none.
        again: gives those of a layer that are not in `layers`, since they are kept elsewhere.
    """

    layers: Mapping[str, LayerStatistics]
    record: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    again: Callable[[str], LayerStatistics] | None = None


def stored_bytes(layers: Sequence[ConvLayer], options: CalibrationOptions) -> int:
    """How large a file of statistics gets, by the covariances that are kept within the memory limit."""
    free = int(SHARE * free_memory())
    full = share_out(layers, free if options.memory is None else options.memory)
    kept = [layer.geometry for layer in layers if layer.name in full]
    return sum(4 * geometry.groups * patch_size(geometry) ** 2 for geometry in kept)  # triangles in float64


@dataclass(frozen=True)
class Extent:
    """How much is gathered of which layer, within the memory limit.

    Attributes:
        memory: bytes that covariances may take in all.
        strips: bytes that the strips of one layer may take.
        full: names of the layers whose covariance is gathered.
        alone: names of the layers that are too large to be looked at in any way.
    """

    memory: int
    strips: int
    full: frozenset[str]
    alone: tuple[str, ...]

    @classmethod
    def of(cls, layers: Sequence[ConvLayer], options: CalibrationOptions) -> Extent:
        """That of some layers, by what is free now where the options set no limit."""
        free = int(SHARE * free_memory())
        memory = free if options.memory is None else options.memory
        full = share_out(layers, memory)
        over = [layer for layer in layers if layer.name not in full]
        alone = tuple(
            layer.name for layer in over if not another_pass_fits(layer.geometry, memory, free)
        )  # fmt: skip
        return cls(memory, free, full, alone)

    def looked_at(self, layers: Sequence[ConvLayer]) -> list[ConvLayer]:
        """Those of the layers that are looked at."""
        return [layer for layer in layers if layer.name not in self.alone]

    def options(self, layer: ConvLayer, inputs: Inputs, options: CalibrationOptions) -> StatisticsOptions:
        """How a layer is looked at."""
        return layer_options(layer, inputs, options, self.full, self.strips)

    def moments(self, layer: ConvLayer) -> str:
        """Which moments of a layer are gathered: of "patches", "strips", or single "values"."""
        if layer.name in self.full:
            return "patches"
        limits = StatisticsOptions(0, strips=self.strips)
        return "values" if over_the_limit(one_group(layer.geometry), limits) else "strips"

    def notes(self, layers: Sequence[ConvLayer]) -> tuple[str, ...]:
        """What a user should know of it."""
        over = [layer.name for layer in self.looked_at(layers) if layer.name not in self.full]
        long = [
            layer.name
            for layer in layers
            if layer.name in over and not one_tap(layer.geometry) and self.moments(layer) == "values"
        ]
        return tuple(
            f"{len(names)} layers are over the memory limit of {self.memory / 2**30:.2g} GiB and {what}: "
            f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
            for names, what in (
                (over, "take another pass over the inputs"),
                (long, "so long on one axis that of all schemes only 'channel' fits into it"),
                (self.alone, "are too large for another pass, so they are fitted to their weights alone"),
            )
            if names
        )


def gather(
    runner: Runner, layers: Sequence[ConvLayer], inputs: Inputs, options: CalibrationOptions,
    extent: Extent | None = None,
) -> Statistics:  # fmt: skip
    """Collect the input statistics of every layer in one pass.

    Args:
        runner: runs the model.
        layers: layers that the protected outputs depend on.
        inputs: samples; all are used.
        options: how.
        extent: how much is gathered of each; as much as the memory limit allows these layers if None.

    Raises:
        InputError: a layer sees nothing, or values that are not finite.
    """
    extent = extent or Extent.of(layers, options)
    chosen = extent.looked_at(layers)
    accumulators = {
        layer.name: accumulator(layer.geometry, extent.options(layer, inputs, options)) for layer in chosen
    }
    metrics: dict[str, NDArray[np.float64]] = {}
    weighted = options.gradients and runner.differentiable
    stride = math.ceil(inputs.count / GRADIENT_SAMPLES)
    generator = np.random.default_rng(options.seed)
    with mode(runner, options):
        for index, batch in enumerate(track(inputs, "collecting input statistics of layers")):
            asked = generator if weighted and index % stride == 0 else None
            for seen in runner.record_inputs(chosen, batch, asked):
                accumulators[seen.layer].update(seen.inputs)
                if seen.gradients is not None and seen.gradients.shape[1] <= LARGEST_METRIC:
                    metrics[seen.layer] = metrics.get(seen.layer, 0) + _second_moment(seen.gradients)
    found = {}
    for layer in track(chosen, "summing up"):
        statistics = accumulators.pop(layer.name).result()
        _check(layer, statistics)
        if not layer.geometry.semantics.spatial:
            statistics = shrunk(statistics)
        # The metric mixes all outputs of a layer, which a stack with groups cannot follow.
        metric = metrics.get(layer.name) if layer.geometry.groups == 1 else None
        found[layer.name] = replace(statistics, gradient=_normalised(metric))
    return Statistics(found, record_of(runner, inputs, options, extent), extent.notes(layers))


def record_of(runner: Runner, inputs: Inputs, options: CalibrationOptions, extent: Extent) -> dict[str, Any]:
    """What statistics are gathered from and how, as plain JSON values."""
    return {
        "inputs": inputs.record(),
        "batch_statistics": bool(options.batch_statistics),
        "gradients": options.gradients and runner.differentiable,
        "positions": options.positions,
        "seed": options.seed,
        "outputs": list(runner.outputs),
        "weights_alone": list(extent.alone),
    }


_ONE_AT_A_TIME = Lock()


@dataclass(frozen=True, eq=False)
class AnotherPass:
    """A `SecondPass` that runs the network over the inputs once more."""

    runner: Runner
    inputs: Inputs
    options: CalibrationOptions

    def __call__(self, layer: ConvLayer, pair: Factors) -> FactorStatistics:
        """See `SecondPass`."""
        options = layer_options(layer, self.inputs, self.options, frozenset())
        accumulator = factor_accumulator(layer, pair, options)
        with _ONE_AT_A_TIME, mode(self.runner, self.options):  # layers are fitted in threads
            for batch in track(self.inputs, f"looking at {layer.name} again"):
                for seen in self.runner.record_inputs([layer], batch):
                    accumulator.update(seen.inputs)
        return accumulator.result()


def mode(runner: Runner, options: CalibrationOptions) -> AbstractContextManager[None]:
    """The state in which the network is looked at."""
    return runner.batch_statistics() if options.batch_statistics else nullcontext()


def layer_options(
    layer: ConvLayer, inputs: Inputs, options: CalibrationOptions, full: frozenset[str],
    strips: int | None = None,
) -> StatisticsOptions:  # fmt: skip
    """How one layer is looked at; those not in `full` keep no covariance, but strips of so many bytes."""
    positions = options.positions
    if positions is None:
        wanted = PATCHES_PER_VALUE * patch_size(layer.geometry) / inputs.count
        positions = max(FEWEST_POSITIONS, math.ceil(wanted))
    return StatisticsOptions(None if layer.name in full else 0, positions, options.seed, strips)


def _second_moment(gradients: Array) -> NDArray[np.float64]:
    images = gradients.reshape(*gradients.shape[:2], -1)
    # An odd step does not meet the same columns of the image in every row.
    step = images.shape[2] // _GRADIENT_POSITIONS | 1
    picked = (np.ascontiguousarray(rows[:, ::step]) for rows in images)
    return np.asarray(sum(np.asarray(rows @ rows.T, np.float64) for rows in picked))


def _normalised(metric: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """With a mean of 1 on the diagonal; None where the gradients of the outputs are zero."""
    if metric is None:
        return None
    mean = float(np.trace(metric)) / len(metric)
    return metric / mean if np.isfinite(mean) and mean > 0 else None


def _check(layer: ConvLayer, statistics: LayerStatistics) -> None:
    values = statistics.strips if statistics.covariance is None else (statistics.covariance,)
    if not all(np.isfinite(value).all() for value in (*values, statistics.mean)):
        raise InputError(
            f"{layer.name}: sees values that are not finite on the calibration inputs; look at their range "
            "(mean and scale) and at the weights before"
            + remedy(", or use weights only ({})", "no_data=True")
        )
