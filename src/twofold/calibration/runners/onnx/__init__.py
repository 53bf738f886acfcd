"""Runs ONNX models in ONNX Runtime; gradients, which it does not give, come from the same graph in torch."""

from .runner import OnnxRunner, make_runner

__all__ = ["OnnxRunner", "make_runner"]
