"""Layer types: what each computes, one file per type; everything behind asks here and compares no names.

A registered layer type is known to schemes, planners, calibration and plans. How a format holds it in its
files stands with the format, in its own folder `layer_types`.
"""

from ..renamed import former_members
from .convolution import Convolution
from .geometry import LAYER_TYPES, Array, ConvGeometry, LayerType, Size, register
from .linear import Linear
from .transposed import Transposed

__all__ = ["LAYER_TYPES", "Array", "ConvGeometry", "LayerType", "Size", "register"]

__getattr__ = former_members(__name__, Kind="LayerType", meaning="LAYER_TYPES.find", known="LAYER_TYPES.keys")

register(Convolution())
register(Linear())
register(Transposed())
