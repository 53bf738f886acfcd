"""Models that are not files: an object that a framework gives, as a `Model`."""

from __future__ import annotations

import sys
from typing import Any

from ..errors import OptionError


def as_model(model: Any, example_inputs: Any = None) -> Any:
    """Return a model as it is, and a PyTorch module as a `TorchModel`.

    Args:
        model: a model, or an `nn.Module`.
        example_inputs: for a module, what its forward gets: a tensor, a tuple of arguments, or a dict.

    Raises:
        OptionError: example inputs for something that is no module, or something that is no model at all.
    """
    # Whoever has a module has imported torch.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from .torch.model import TorchModel  # noqa: PLC0415 - an extra

        return TorchModel(model, example_inputs)
    if not callable(getattr(model, "convolutions", None)):
        raise OptionError(
            f"cannot decompose a value of type {type(model).__name__}; "
            "give a torch.nn.Module, or what twofold.load returns"
        )
    if example_inputs is not None:
        raise OptionError("example inputs belong to a torch.nn.Module; a loaded model knows its inputs")
    return model
