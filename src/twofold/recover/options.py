"""How a recovery trains."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..calibration.inputs import Inputs
from ..errors import OptionError, option

#: Values of one step's inputs: two images of 3 x 320 x 320, with their activations and gradients.
_BATCH_VALUES = 2 * 3 * 320 * 320
_LARGEST_BATCH = 64
#: Steps with such batches; more with smaller ones.
_STEPS, _MOST_STEPS = 240, 1000


@dataclass(frozen=True)
class RecoverOptions:
    """How the factors are trained.

    Attributes:
        steps: steps of the optimizer (SOAP), each on one batch; None for what takes some minutes, which
            depends on the size of a batch; 0 measures alone, such as the mean of several recoveries
            (`average_with`).
        rate: learning rate, as a fraction of the root mean square of each weight; it rises over the first
            steps and falls to zero along a cosine. None for the one that helps most in short trials.
        batch: samples per step, of all processes together; None for as many as one step can well hold, which
            depends on their size.
        checks: how often the held-out error is measured.
        seed: of the order of the samples.
        device: "cpu", "cuda" or "cuda:1"; None for a GPU where there is one.
        classes: whether outputs name classes, a score or fraction for each; the student then learns to name
            the same ones, too. None for those whose shape or values say so, as in `compare`.
        qat: train with fake quantization and give the int8 form; all its layers and ranges are trained.
        hints: values inside the net that are learned, too, by the names of blobs or tensors that both models
            have; of Caffe and ONNX models. Errors are measured at the outputs alone.
        bf16: convolve and multiply matrices in bfloat16 while training; weights, the loss and the held-out
            errors stay in float32. About twice as fast where the processor has it in hardware (AMX, GPUs
            since Ampere), slower elsewhere.
    """

    steps: int | None = None
    rate: float | None = None
    batch: int | None = None
    checks: int = 8
    seed: int = 0
    device: str | None = None
    classes: bool | None = None
    qat: bool = False
    hints: tuple[str, ...] = ()
    bf16: bool = False

    def __post_init__(self) -> None:
        if min(one for one in (self.batch, self.checks) if one is not None) < 1:
            raise OptionError(f"batch and checks are 1 or more, got {self}")
        if self.steps is not None and self.steps < 0:
            raise OptionError(f"steps are 0 or more, got {self.steps}")
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            raise OptionError(f"the rate is a positive number, got {self.rate}")
        if self.qat and (self.bf16 or self.hints):
            other = option("bf16=True", "--bf16") if self.bf16 else option("hints", "--hint")
            raise OptionError(
                f"{option('qat=True', '--qat')} does not go with {other}; leave one of them out"
            )

    def sized(self, inputs: Inputs, processes: int) -> RecoverOptions:
        """With steps and batch: few of large samples, or many of small ones.

        Raises:
            OptionError: the processes cannot share the batch evenly, or the network takes none so large.
        """
        values = sum(array[0].size for array in inputs.arrays.values())
        largest = min(_LARGEST_BATCH, inputs.largest or _LARGEST_BATCH)
        batch = self.batch or processes * min(max(_BATCH_VALUES // (values * processes), 1), largest)
        if inputs.largest is not None and batch > processes * inputs.largest:
            raise OptionError(
                f"a batch of {batch}: the network mixes or rejects samples that it is given together, so it "
                f"is taught one at a time: {option('batch', '--batch')} {processes * inputs.largest}, or none"
            )
        if batch % processes:
            raise OptionError(
                f"a batch of {batch} cannot be shared evenly by {processes} processes; make it a multiple "
                f"of {processes}, or start another number of processes"
            )
        steps = min(max(_STEPS * _BATCH_VALUES // (batch * values), _STEPS), _MOST_STEPS)
        return replace(self, steps=steps if self.steps is None else self.steps, batch=batch)
