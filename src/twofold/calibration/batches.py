"""Whether samples that run together change each other's outputs, as behind a Reshape to a batch of one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import InputError, ModelError
from .inputs import Inputs
from .runner import Outputs, Runner

#: Relative difference of outputs from which it is none of rounding.
_MIXED = 1e-3
NOTE = "samples are run one at a time: in batches the network mixes them"


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
    origin = replace(inputs.provenance, notes=(*inputs.provenance.notes, NOTE))
    return replace(inputs, provenance=origin, batch=1, largest=1)


def _differ(name: str, together: Outputs, alone: list[Outputs]) -> bool:
    """Whether an output of two samples is another than those of both, one after the other."""
    first, second = (one[name] for one in alone)
    pair = together[name]
    if pair.shape == first.shape == second.shape and np.array_equal(first, second):
        expected = first  # no sample's own, as SSD's boxes to begin with
    elif first.ndim and first.shape[1:] == second.shape[1:] == pair.shape[1:]:
        expected = np.concatenate([first, second])
    else:
        return True
    if pair.shape != expected.shape:
        return True
    away = float(np.linalg.norm((pair - expected).ravel().astype(np.float64)))
    return not away <= _MIXED * float(np.linalg.norm(expected.ravel().astype(np.float64)))
