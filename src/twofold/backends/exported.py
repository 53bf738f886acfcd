"""Formats whose models can be exported to ONNX: all the rest can be done by way of that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..formats.base import Model
from .base import Function, Part, backend_of

if TYPE_CHECKING:
    import numpy as np

    from ..conv import Size
    from ..formats.onnx.model import OnnxModel


def through_onnx(to_onnx: Function) -> dict[str, Any]:
    """What an entry has where its models are run, timed, trained and quantized as ONNX.

    Args:
        to_onnx: a model as an ONNX message; its convolutions are called as the model calls them. For training
            the model has `with_weights`, which takes weight and bias of layers by name and gives a new model.
    """
    here = __name__
    return {
        "to_onnx": Part(to_onnx, "ONNX", "onnx"),
        "runner": Part("twofold.calibration.runners.exported:make_runner", "ONNX Runtime", "onnx"),
        "student": Part("twofold.recover.exported:make_student", "PyTorch", "torch"),
        "inputs": Part(f"{here}:declared", "ONNX", "onnx"),
        "forms": {"onnx": "twofold.latency.nets:exported"},
    }


def exported(model: Model) -> OnnxModel:
    """A model as an `OnnxModel` in memory; one of ONNX as it is.

    Raises:
        ModelError: it cannot be exported.
        MissingExtraError: what exports it is not installed.
    """
    from ..formats.onnx.model import OnnxModel  # noqa: PLC0415 - an extra

    return (
        model if isinstance(model, OnnxModel) else OnnxModel(Path("model.onnx"), as_onnx(model), edited=True)
    )


def as_onnx(model: Model) -> Any:
    """A model as an ONNX message, all data inside; inputs and outputs keep their names.

    Raises:
        ModelError: it cannot be exported.
        MissingExtraError: what exports it is not installed.
    """
    return backend_of(model).part("to_onnx", "be exported to ONNX").get("export to ONNX")(model)


def declared(model: Model) -> dict[str, tuple[Size | None, np.dtype[Any]]]:
    """See `Backend.inputs`."""
    from ..formats.onnx.backend import declared as of_onnx  # noqa: PLC0415 - an extra

    return of_onnx(exported(model))
