"""What the entry of ONNX in `backends` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper

from ...conv import Size
from ...files.scratch import scratch_folder
from .model import OnnxModel


def declared(model: OnnxModel) -> dict[str, tuple[Size | None, np.dtype[Any]]]:
    """Shape and type of every input; a shape is None where it is not known.

    The batch is open in most models; it is one image then.
    """
    graph = model.proto.graph
    constant = {tensor.name for tensor in graph.initializer}
    found: dict[str, tuple[Size | None, np.dtype[Any]]] = {}
    for value in graph.input:
        if value.name in constant:
            continue
        tensor = value.type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
        sizes = [1 if not axis and not size else size for axis, size in enumerate(sizes)]
        shape = model.inputs.get(value.name, tuple(sizes) if all(sizes) else None)
        found[value.name] = (shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return found


def as_message(model: OnnxModel) -> ModelProto:
    """A model with all its data in the message."""
    with scratch_folder() as folder:
        model.save(folder / "model.onnx")
        return onnx.load(folder / "model.onnx")


def written(model: OnnxModel, folder: Path, inputs: object) -> tuple[Path, ...]:
    """A model's files in a folder: one, or with data beside it those that it was read from."""
    if model.files:
        model.save_to(folder, force=True, extra={}, check=lambda _: None)
        return model.targets(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / model.path.name
    path.write_bytes(model.proto.SerializeToString(deterministic=True))
    return (path,)
