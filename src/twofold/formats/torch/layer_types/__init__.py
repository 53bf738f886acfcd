"""Modules that are layers: one file per layer type, which reads, makes and runs them."""

from ....renamed import former_members
from .base import LayerAdapter, adapter_of, convolve, modules, plain, register
from .convolution import Convolution
from .linear import Linear
from .transposed import Transposed

__all__ = [
    "Convolution",
    "LayerAdapter",
    "Linear",
    "Transposed",
    "adapter_of",
    "convolve",
    "modules",
    "plain",
    "register",
]

register(Convolution())
register(Transposed())
register(Linear())

__getattr__ = former_members(__name__, Kind="LayerAdapter", kind_of="adapter_of")
