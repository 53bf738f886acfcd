"""A last look at a plan that was made: how certain its error is, and what the network's own outputs lose.

The targets often lie before what the network gives, since a softmax or a sigmoid hides errors or makes
much of them; so both are measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..progress import track
from .inputs import Inputs
from .measure import OutputErrorMetric
from .runner import Runner, Stacks

_BOX_COLUMNS = 7


@dataclass(frozen=True)
class Assessment:
    """What a plan's error says, and what it does not.

    Attributes:
        spread: standard error of the logarithm of the targets' error, since other samples would have been
            measured on: 0 where it is the same in each, infinite where one has all of it.
        network: relative error of every output of the network's own that is no target itself, by name;
            lists of boxes, classes and what varies in size are left out.
        notes: why outputs of the network's own were not compared.
    """

    spread: float = 0.0
    network: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def assess(runner: Runner, targets: Sequence[str], inputs: Inputs, stacks: Stacks) -> Assessment:
    """Run samples through the network and the one with stacks in it.

    Args:
        runner: runs the network and gives the targets, and its own outputs.
        targets: names of the targets.
        inputs: samples that no fit has seen.
        stacks: what stands in the place of layers.

    Returns:
        What they show.
    """
    measure = OutputErrorMetric()
    sums: dict[str, list[NDArray[np.float64]]] = {name: [] for name in targets}
    others = [name for name in runner.outputs if name not in sums]
    for batch in track(inputs, "measuring what the network gives"):
        before, after = runner.run(batch), runner.run(batch, stacks)
        count = len(next(iter(batch.values())))
        for name in targets:
            sums[name].append(_by_sample(before[name], after[name], count))
        others = [name for name in others if _is_comparable(before[name], after[name])]
        for name in others:
            measure.add(name, {name: before[name]}, {name: after[name]})
    network = {name: error for name in others if (error := _error(measure, name)) is not None}
    return Assessment(_spread([np.concatenate(parts) for parts in sums.values()]), network)


def _by_sample(before: NDArray[np.float32], after: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """(count, 4) by sample: lost energy, energy, sum and number of values; others are shared by all."""
    exact = before.astype(np.float64)
    values = [(after - exact) ** 2, exact**2, exact, np.ones_like(exact)]
    if before.ndim and len(before) == count:
        return np.stack([one.reshape(count, -1).sum(axis=1) for one in values], axis=1)
    return np.tile([float(one.sum()) / count for one in values], (count, 1))


def _spread(targets: Sequence[NDArray[np.float64]]) -> float:
    """Standard error of log(error), by the jackknife: from the errors without each of the samples.

    Its logarithm, since errors are compared by their ratio and those of single samples are skewed.

    Source: Efron, "The Jackknife, the Bootstrap and Other Resampling Plans" (1982), equation 3.6.
    """
    squared = np.zeros(len(targets[0]))
    for sums in targets:
        lost, energy, total, count = (sums.sum(axis=0) - sums).T
        variance = energy - total**2 / np.maximum(count, 1)
        squared += lost / np.where(variance > 0, variance, np.maximum(count, 1))
    if not squared.all():
        return math.inf if squared.any() else 0.0
    return float(np.std(np.log(squared) / 2) * math.sqrt(len(squared) - 1))


def _is_comparable(before: NDArray[np.float32], after: NDArray[np.float32]) -> bool:
    """Whether a relative error says something: not of boxes or whole numbers, which are classes or places."""
    boxes = before.ndim == 4 and before.shape[:2] == (1, 1) and before.shape[3] == _BOX_COLUMNS
    return (
        before.size > 0 and before.shape == after.shape and not boxes
        and not np.array_equal(before, np.round(before))
    )  # fmt: skip


def _error(measure: OutputErrorMetric, name: str) -> float | None:
    try:
        return measure.error(name)
    except InputError:  # not finite: no number says how far it is off
        return None
