"""A last look at a plan that was made: how certain its error is, and what the network's own outputs lose.

The targets often lie before what the network gives, since a softmax or a sigmoid hides errors or makes
much of them; so both are measured.
"""

from __future__ import annotations

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
        effective: how many samples share the error of the targets: all where it is the same in each, 1
            where one has all of it.
        network: relative error of every output of the network's own that is no target itself, by name;
            lists of boxes, classes and what varies in size are left out.
        notes: why outputs of the network's own were not compared.
    """

    effective: float
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
        What they show; the law is sum(parts)^2 / sum(parts^2) over the samples' parts of the squared error.
    """
    measure = OutputErrorMetric()
    lost: dict[str, list[NDArray[np.float64]]] = {name: [] for name in targets}
    others = [name for name in runner.outputs if name not in lost]
    for batch in track(inputs, "measuring what the network gives"):
        before, after = runner.run(batch), runner.run(batch, stacks)
        count = len(next(iter(batch.values())))
        for name in targets:
            measure.add(name, {name: before[name]}, {name: after[name]})
            lost[name].append(_by_sample(before[name], after[name], count))
        others = [name for name in others if _is_comparable(before[name], after[name])]
        for name in others:
            measure.add(name, {name: before[name]}, {name: after[name]})
    parts = np.zeros(inputs.count)
    for name, energies in lost.items():
        energy = np.concatenate(energies)
        if energy.any():
            parts += energy * (measure.error(name) ** 2 / energy.sum())
    effective = float(parts.sum() ** 2 / (parts**2).sum()) if parts.any() else float(inputs.count)
    network = {name: error for name in others if (error := _error(measure, name)) is not None}
    return Assessment(effective, network)


def _by_sample(before: NDArray[np.float32], after: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """(count,) lost energy; what is not by sample is shared by all."""
    squares: NDArray[np.float64] = (after.astype(np.float64) - before) ** 2
    if before.ndim and len(before) == count:
        return np.asarray(squares.reshape(count, -1).sum(axis=1))
    return np.full(count, float(squares.sum()) / count)


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
