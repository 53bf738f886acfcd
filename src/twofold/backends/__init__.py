"""The formats: opening their files, and what can be done with their models."""

from . import known  # noqa: F401 - registers the formats
from .base import Backend, Objects, Part, backend, backend_of, backends, register
from .exported import through_onnx
from .load import grouped, is_definition_alone, load, load_beside, model_files
from .objects import as_model, parameters_of, with_data

__all__ = [
    "Backend",
    "Objects",
    "Part",
    "as_model",
    "backend",
    "backend_of",
    "backends",
    "grouped",
    "is_definition_alone",
    "load",
    "load_beside",
    "model_files",
    "parameters_of",
    "register",
    "through_onnx",
    "with_data",
]
