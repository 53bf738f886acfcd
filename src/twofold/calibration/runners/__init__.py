"""Runners by kind of model; each is one file and imports its runtime when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ...errors import MissingExtraError, ModelError, OptionError, option
from ..runner import Runner

#: Class of a model -> the module here that runs it, its runtime, and the extra that brings it.
_RUNNERS = {
    "CaffeModel": ("caffe", "PyTorch", "torch"),
    "OnnxModel": ("onnx", "ONNX Runtime", "onnx"),
    "TorchModel": ("torch", "PyTorch", "torch"),
}


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
    kind = type(model).__name__
    if kind not in _RUNNERS:
        raise ModelError(f"models of type {kind} cannot be run for calibration; use weights only")
    module, runtime, extra = _RUNNERS[kind]
    try:
        make: Callable[..., Runner] = import_module(f".{module}", __name__).make_runner
    except ImportError as error:
        raise MissingExtraError("calibration", runtime, extra) from error
    return make(model, targets)


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
