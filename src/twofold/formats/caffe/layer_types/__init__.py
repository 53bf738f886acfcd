"""Layers that are decomposed: one file per layer type, which reads and writes them."""

from ....renamed import former_members
from .base import LayerAdapter, Sizes, adapter_of, geometry, plain, plain_type, register, types
from .convolution import Convolution, Depthwise
from .linear import Linear
from .transposed import Transposed
from .volume import Volume, as_convolution, volume_param

__all__ = [
    "Convolution",
    "Depthwise",
    "LayerAdapter",
    "Linear",
    "Sizes",
    "Transposed",
    "Volume",
    "adapter_of",
    "as_convolution",
    "geometry",
    "plain",
    "plain_type",
    "register",
    "types",
    "volume_param",
]  # fmt: skip

register(Convolution())
register(Depthwise())
register(Transposed())
register(Linear())
register(Volume())

__getattr__ = former_members(__name__, Kind="LayerAdapter", kind_of="adapter_of")
