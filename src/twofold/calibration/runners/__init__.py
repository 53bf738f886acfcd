"""Runners of models; each is one file, named by the entry of its format in `backends`."""

from __future__ import annotations

from typing import Any

from ...backends import backend_of
from ...errors import OptionError, option
from ..runner import Runner


def runner_for(model: Any, targets: tuple[str, ...] = ()) -> Runner:
    """The runner of a model.

    Args:
        model: what `load` gives.
        targets: names of the outputs that are to change least; empty for the model's own.

    Raises:
        MissingExtraError: the runtime is not installed.
        ModelError: the model cannot be run; which layer stands in the way.
        OptionError: there is no output of a name in `targets`.
    """
    part = backend_of(model).part("runner", "be run for calibration; use weights only")
    runner: Runner = part.get("calibration")(model, targets)
    return runner


def reject_varying(runner: Runner) -> None:
    """Reject to protect what has another size with each input.

    Raises:
        OptionError: the user names such an output.
    """
    for name in runner.outputs:
        if name in runner.varying:
            raise OptionError(
                f"the size of {name!r} depends on the values, so its error cannot be measured; name what is "
                f"computed before it, or nothing: {option('targets')}"
            )
