"""Nodes that are layers: one file per layer type, which reads and writes them."""

from ....renamed import former_members
from .base import LayerAdapter, adapter_of, operators, plain, register
from .convolution import Convolution
from .linear import Gemm, MatMul
from .rejected import REJECTED
from .transposed import Transposed

__all__ = [
    "Convolution", "Gemm", "LayerAdapter", "MatMul", "Transposed", "adapter_of", "operators", "plain",
    "register",
]  # fmt: skip

for _adapter in (Convolution(), Transposed(), Gemm(), MatMul(), *REJECTED):
    register(_adapter)

__getattr__ = former_members(__name__, Kind="LayerAdapter", kind_of="adapter_of")
