"""Runs models of formats that can be exported, as ONNX."""

from __future__ import annotations

from ...backends.exported import exported
from ...formats.base import Model
from .onnx import OnnxRunner


def make_runner(model: Model, targets: tuple[str, ...] = ()) -> OnnxRunner:
    """The runner of a model; see `runner_for`."""
    return OnnxRunner(exported(model), targets)
