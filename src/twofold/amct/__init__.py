"""AMCT's calls, with its arguments and results: `auto_decomposition` for Caffe here, PyTorch in `torch`."""

from .caffe import auto_decomposition

__all__ = ["auto_decomposition"]
