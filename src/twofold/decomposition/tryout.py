"""Running a result once beside its original, whatever the format: what comes back runs, and was tried."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..calibration.inputs import Batch
from ..calibration.runner import Outputs, Runner
from ..calibration.runners import runner_for
from ..calibration.synthetic import synthetic_inputs
from ..errors import ModelError, TwofoldError, lacking


@dataclass(frozen=True)
class Tryout:
    """What a run of a result beside its original showed.

    Attributes:
        reason: why there was none; "" where there was.
        same: whether all outputs were exactly the original's.
    """

    reason: str = ""
    same: bool = False

    def warnings(self, changed: bool) -> tuple[str, ...]:
        """What must not be overlooked; `changed` says whether any layer was replaced."""
        if self.reason:
            return (f"the result was not run beside its original: {self.reason}",)
        if self.same and changed:
            return ("the outputs are exactly those of the original on the input that both were tried on",)
        return ()


def tryout(original: Any, smaller: Any, runner: Runner | None = None, batch: Batch | None = None) -> Tryout:
    """Run a result once beside its original.

    Args:
        original: a model.
        smaller: what became of it.
        runner: of the original, where there is one already.
        batch: what to run; a synthetic sample, or the example inputs, where there is none.

    Raises:
        ModelError: the result does not run where the original does, or gives other shapes or no numbers.
    """
    sample = getattr(original, "sample", None)
    if sample is not None and original.example_inputs is None:
        original, smaller = (replace(one, example_inputs=sample) for one in (original, smaller))
    try:
        with lacking("no_data"):  # the weights alone have decided already
            runner = runner or runner_for(original)
            given = dict(batch or runner.examples or synthetic_inputs(runner.inputs, count=1).arrays)
        before = runner.run(given)
    except TwofoldError as error:
        return Tryout(str(error))
    except Exception as error:  # whatever a runtime raises
        return Tryout(f"the original does not run: {type(error).__name__}: {error}")
    try:
        after = runner_for(smaller, runner.outputs).run(given)
    except Exception as error:  # whatever a runtime raises
        raise ModelError(f"the result does not run where its original does: {error}") from error
    _compare(before, after)
    return Tryout(
        same=all(np.array_equal(value, after[name], equal_nan=True) for name, value in before.items())
    )


def _compare(before: Outputs, after: Outputs) -> None:
    for name, value in before.items():
        found = after.get(name)
        if found is None:
            raise ModelError(f"the result has no output {name!r}, only {', '.join(after) or 'none'}")
        if found.shape != value.shape:
            raise ModelError(
                f"the result gives {name!r} in the shape {found.shape}, its original in {value.shape}"
            )
        if np.isfinite(value).all() and not np.isfinite(found).all():
            raise ModelError(
                f"the result gives values in {name!r} that are not finite, where the original's are; "
                "convert the model to float32 first, or give a larger budget"
            )
