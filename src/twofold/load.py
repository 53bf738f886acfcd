"""Opening a model file, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .conv import Size
from .formats.caffe.model import CaffeModel


def load(
    model: str | Path, weights: str | Path | None = None, *, inputs: Mapping[str, Size] | None = None
) -> CaffeModel:
    """Load a model.

    Args:
        model: the definition: a Caffe prototxt.
        weights: its weights: a caffemodel, or Caffe's HDF5 weights. Without them only shapes are known.
        inputs: shapes of inputs that replace what the definition says, as {"data": (1, 3, 224, 224)}.

    Returns:
        The model. `convolutions()` lists what can be decomposed.

    Raises:
        FormatError: a file is missing or is not what it should be.
        ModelError: the files do not fit each other.
        OptionError: the files are given in the wrong order.
    """
    return CaffeModel.load(model, weights, inputs)
