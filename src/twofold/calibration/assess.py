"""A last look at a plan that was made: how certain its error is, and what the network's own outputs lose.

The targets often lie before what the network gives, since a softmax or a sigmoid hides errors or makes
much of them; so both are measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from ..errors import InputError
from ..progress import track
from .inputs import Inputs
from .measure import OutputErrorMetric
from .runner import Runner, Stacks

_BOX_COLUMNS = 7
#: A float holds its exponential.
_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True)
class Assessment:
    """What a plan's error says, and what it does not.

    Attributes:
        groups: of every target, (groups, 4): lost energy, energy, sum and number of values of a sample, or of
            samples that are alike.
        count: how many samples were looked at.
        network: relative error of every output of the network's own that is no target itself, by name;
            lists of boxes, classes and what varies in size are left out.
        notes: why outputs of the network's own were not compared.
        held_out: the error of the held-out samples by themselves, where factors were fitted to some of
            them; None where all are held out.
    """

    groups: tuple[NDArray[np.float64], ...] = ()
    count: int = 0
    network: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    held_out: float | None = None

    @property
    def error(self) -> float:
        """Relative error of the targets, as `OutputErrorMetric` has it."""
        if not self.groups:
            return 0.0
        squares = [_squared(one.sum(axis=0)) for one in self.groups]
        return math.sqrt(sum(map(float, squares)) / len(squares))

    @property
    def spread(self) -> float:
        """Standard error of log(error), by the jackknife: from the errors without each of the groups.

        It is 0 where the error is the same in each group, and infinite where one has all of it. Its
        logarithm, since errors are compared by their ratio and those of single samples are skewed.

        Source: Efron, "The Jackknife, the Bootstrap and Other Resampling Plans" (1982), equation 3.6.
        """
        if not self.groups:
            return 0.0
        squares = np.sum([_squared(one.sum(axis=0) - one) for one in self.groups], axis=0)
        if len(squares) == 1 or not squares.all():
            return math.inf if squares.any() else 0.0
        return float(np.std(np.log(squares) / 2) * math.sqrt(len(squares) - 1))

    @property
    def factor(self) -> float:
        """How many times as large or as small other samples may show the error, in 19 of 20 cases.

        The spread of few groups is itself uncertain: Student's t says by how much.
        """
        if not self.spread:
            return 1.0
        freedom = max(len(self.groups[0]) - 1, 1)
        return math.exp(min(self.spread * float(stdtrit(freedom, 0.975)), _LARGEST_EXPONENT))

    def with_fitted(self, fitted: Assessment) -> Assessment:
        """The same told by samples that factors were fitted to, too."""
        both = tuple(np.concatenate(pair) for pair in zip(self.groups, fitted.groups, strict=True))
        return replace(self, groups=both, count=self.count + fitted.count, held_out=self.error)


def assess(
    runner: Runner, targets: Sequence[str], inputs: Inputs, stacks: Stacks, groups: Sequence[int] = ()
) -> Assessment:
    """Run samples through the network and the one with stacks in it.

    Args:
        runner: runs the network and gives the targets, and its own outputs.
        targets: names of the targets.
        inputs: the samples.
        stacks: what stands in the place of layers.
        groups: numbers of samples, in their order, that are alike; none where no two are.

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
    starts = np.cumsum([0, *groups[:-1]]) if groups else np.arange(inputs.count)
    grouped = tuple(np.add.reduceat(np.concatenate(parts), starts) for parts in sums.values())
    return Assessment(grouped, inputs.count, network)


def _by_sample(before: NDArray[np.float32], after: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """(count, 4) by sample: lost energy, energy, sum and number of values; others are shared by all."""
    exact = before.astype(np.float64)
    values = [(after - exact) ** 2, exact**2, exact, np.ones_like(exact)]
    if before.ndim and len(before) == count:
        return np.stack([one.reshape(count, -1).sum(axis=1) for one in values], axis=1)
    return np.tile([float(one.sum()) / count for one in values], (count, 1))


def _squared(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared relative errors from (..., 4) sums."""
    lost, energy, total, count = np.moveaxis(sums, -1, 0)
    variance = energy - total**2 / np.maximum(count, 1)
    return np.asarray(lost / np.where(variance > 0, variance, np.maximum(count, 1)))


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
