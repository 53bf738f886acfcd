"""Opening a model file, whatever its format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from .conv import Size
from .errors import OptionError, PlanError
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


def load_beside(plan: str | Path, names: Iterable[str]) -> CaffeModel:
    """Load the decomposed model that was written into the folder of its plan.

    Args:
        plan: the plan file.
        names: file names of the model that the plan was made for; a decomposed model keeps them.

    Raises:
        PlanError: the folder has no such model.
    """
    folder = Path(plan).parent
    files = [folder / name for name in names]
    missing = [path.name for path in files if not path.is_file()]
    if missing or not files:
        raise PlanError(
            f"{plan}: its factors were fitted to inputs, and are read from the decomposed model beside it, "
            f"but {folder} has no {' and no '.join(missing) or 'model'}; keep the plan where it was written"
        )
    try:
        return load(*files)
    except OptionError:  # the plan does not say which of two files is the definition
        return load(*reversed(files))
