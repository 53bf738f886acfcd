"""How frameworks store weights: all alike, and for two kinds of layers not as `ConvLayer` has them."""

from __future__ import annotations

import numpy as np

from ..conv import Array, ConvGeometry, Size


def stored_shape(geometry: ConvGeometry) -> Size:
    """Shape in files and modules: (C_out, C_in) of a linear layer, channels exchanged of a transposed one."""
    if geometry.kind == "linear":
        return geometry.c_out, geometry.c_in
    if geometry.kind == "transposed":
        return (geometry.c_in, geometry.c_out // geometry.groups, *geometry.kernel)
    return geometry.weight_shape


def stored(weight: Array, geometry: ConvGeometry) -> Array:
    """A weight (C_out, C_in / groups, *kernel) as it is stored."""
    if geometry.kind == "transposed":
        weight = _exchanged(weight, geometry.groups)
    return np.ascontiguousarray(weight).reshape(stored_shape(geometry))


def canonical(array: Array, geometry: ConvGeometry) -> Array:
    """Undo `stored`; arrays with more axes of size 1 will do, too."""
    weight = array.reshape(stored_shape(geometry))
    if geometry.kind == "transposed":
        weight = _exchanged(weight, geometry.groups)
    return weight.reshape(geometry.weight_shape)


def _exchanged(weight: Array, groups: int) -> Array:
    """Exchange the channels of the outer and the inner axis, group by group."""
    outer, inner, *kernel = weight.shape
    split = weight.reshape(groups, outer // groups, inner, *kernel).swapaxes(1, 2)
    return split.reshape(groups * inner, outer // groups, *kernel)
