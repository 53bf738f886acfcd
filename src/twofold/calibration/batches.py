"""Whether samples that run together change each other's outputs, as behind a Reshape to a batch of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ModelError
from .inputs import Inputs
from .runner import Outputs, Runner

#: Relative difference of outputs from which it is none of rounding.
_MIXED = 1e-3
NOTE = "samples are run one at a time: in batches the network mixes or rejects them"
Array = NDArray[Any]


def unmixed(runner: Runner, inputs: Inputs) -> Inputs:
    """The inputs in batches in which every sample has the outputs that it has alone.

    A network that was written for one sample at a time may take more all the same: a Reshape to a shape that
    holds the batch's size puts what there is of all samples into one, or rejects it. Two samples are run
    together and each alone.

    Args:
        runner: of all outputs that are looked at.
        inputs: the samples.

    Returns:
        The inputs; where outputs differ or two samples cannot run together, in batches of one, and with a
        note.
    """
    if min(inputs.count, inputs.batch) < 2:
        return inputs
    try:
        alone = [runner.run(next(iter(inputs.take(slice(row, row + 1))))) for row in range(2)]
    except (InputError, ModelError):
        return inputs  # a batch of one is no way out; what runs them says what is wrong
    try:
        together = runner.run(next(iter(inputs.take(slice(2)))))
    except (InputError, ModelError):
        mixed = True
    else:
        names = [name for name in together if name not in runner.varying]
        mixed = any(_differ(name, together, alone) for name in names)
    if not mixed:
        return inputs
    return replace(inputs.noted(NOTE), batch=1, largest=1)


def _differ(name: str, together: Outputs, alone: list[Outputs]) -> bool:
    """Whether an output of two samples is another than those of both, one after the other."""
    first, second = (one[name] for one in alone)
    pair = together[name]
    if pair.shape in ((), (1,)) and first.shape == second.shape == pair.shape:
        return False  # one number for all, as a loss
    expected = _expected(pair, first, second)
    return expected is None or not _near(pair, expected)


def _expected(pair: Array, first: Array, second: Array) -> Array | None:
    """What two outputs are together, one row of samples after the other; None where they have no such shape.

    Samples along another axis are rows of nobody, as behind a Reshape to (1, -1): what is told of single
    samples, such as classes, would be told of all.
    """
    if pair.shape == first.shape == second.shape:  # no sample's own, as SSD's boxes to begin with
        return first if np.array_equal(first, second, equal_nan=True) else None
    if not first.ndim or first.shape[1:] != second.shape[1:]:
        return None
    both = np.concatenate([first, second])
    return both if both.shape == pair.shape else None


def _near(found: Array, expected: Array) -> bool:
    """Whether values differ by rounding alone; those that are not finite are the same."""
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True):
        return False
    wanted = expected[finite].astype(np.float64)
    away = float(np.linalg.norm(found[finite] - wanted))
    return away <= _MIXED * float(np.linalg.norm(wanted))
