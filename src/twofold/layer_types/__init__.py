"""Kinds of layers: what each computes, one file per kind; everything behind asks here and compares no names.

A kind that is registered is known to schemes, planners, calibration and plans. How a format says it in its
files stands with the format, in its own folder `kinds`.
"""

from .convolution import Convolution
from .geometry import Array, ConvGeometry, Kind, Size, known, meaning, register
from .linear import Linear
from .transposed import Transposed

__all__ = ["Array", "ConvGeometry", "Kind", "Size", "known", "meaning", "register"]

register(Convolution())
register(Linear())
register(Transposed())
