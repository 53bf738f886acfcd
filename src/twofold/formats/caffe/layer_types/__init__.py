"""Layers that are decomposed: one file per kind, which says how such a layer is read and written."""

from .base import Kind, Sizes, geometry, kind_of, plain, plain_type, register, types
from .convolution import Convolution, Depthwise
from .linear import Linear
from .transposed import Transposed
from .volume import Volume, as_convolution, volume_param

__all__ = [
    "Convolution", "Depthwise", "Kind", "Linear", "Sizes", "Transposed", "Volume", "as_convolution",
    "geometry", "kind_of", "plain", "plain_type", "register", "types", "volume_param",
]  # fmt: skip

register(Convolution())
register(Depthwise())
register(Transposed())
register(Linear())
register(Volume())
