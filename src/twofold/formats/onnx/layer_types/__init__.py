"""Nodes that are layers: one file per kind, which says how such a node is read and written."""

from .base import Kind, kind_of, operators, plain, register
from .convolution import Convolution
from .linear import Gemm, MatMul
from .refused import REFUSED
from .transposed import Transposed

__all__ = ["Convolution", "Gemm", "Kind", "MatMul", "Transposed", "kind_of", "operators", "plain", "register"]

for _kind in (Convolution(), Transposed(), Gemm(), MatMul(), *REFUSED):
    register(_kind)
