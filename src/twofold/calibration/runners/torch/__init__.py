"""Runs PyTorch modules."""

from .runner import TorchRunner, make_runner

__all__ = ["TorchRunner", "make_runner"]
