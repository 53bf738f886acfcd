"""Modules that are layers: one file per kind, which says how such a module is read, made and run."""

from .base import Kind, convolve, kind_of, modules, plain, register
from .convolution import Convolution
from .linear import Linear
from .transposed import Transposed

__all__ = [
    "Convolution",
    "Kind",
    "Linear",
    "Transposed",
    "convolve",
    "kind_of",
    "modules",
    "plain",
    "register",
]

register(Convolution())
register(Transposed())
register(Linear())
