"""Whether statistics that were read from a file can be those of a layer."""

from __future__ import annotations

import numpy as np

from twofold.calibration.statistics import patch_size
from twofold.conv import Array, ConvLayer, LayerStatistics

#: Products of two float32 are at most this large.
_LARGEST = float(np.finfo(np.float32).max) ** 2
#: How far rounding moves moments, as a fraction of the largest variance.
_ROUNDING = 1e-3


def unsound(layer: ConvLayer, statistics: LayerStatistics) -> str | None:
    """Why these are not the statistics of the layer, whatever its inputs were; None where they may be."""
    geometry = layer.geometry
    lead = () if geometry.groups == 1 else (geometry.groups,)
    size, channels = patch_size(geometry), geometry.c_in // geometry.groups
    arrays = {"mean": (statistics.mean, (*lead, size))}
    if statistics.covariance is not None:
        arrays["covariance"] = (statistics.covariance, (*lead, size, size))
    if statistics.gradient is not None:
        arrays["gradient"] = (statistics.gradient, (geometry.c_out, geometry.c_out))
    if len(statistics.strips) != len(geometry.kernel):
        return f"has {len(statistics.strips)} strips, and the layer {len(geometry.kernel)} axes"
    for axis, (strip, taps) in enumerate(zip(statistics.strips, geometry.kernel, strict=True)):
        once = strip.ndim == statistics.mean.ndim  # the diagonal alone
        arrays[f"strip{axis}"] = (strip, (*lead, *(channels * taps,) * (1 if once else 2)))
    for name, (array, shape) in arrays.items():
        if array.shape != shape:
            return f"its {name} has shape {array.shape}, and the layer needs {shape}"
        if not float(np.abs(array).max()) <= _LARGEST:
            return f"its {name} has values that no inputs in float32 have"
        if name != "mean" and not _may_be_moments(array, array.ndim > statistics.mean.ndim):
            return f"its {name} is no covariance"
    return None


def _may_be_moments(array: Array, square: bool) -> bool:
    """Whether variances are positive, and no covariance is larger than those of its two allow."""
    if not square:
        return bool((array >= 0).all())
    matrices = array.reshape(-1, *array.shape[-2:])
    for matrix in matrices:
        variances = np.diagonal(matrix)
        rounding = _ROUNDING * float(np.abs(variances).max())
        if variances.min() < -rounding:
            return False
        deviations = np.sqrt(np.maximum(variances, 0))
        for row, deviation in zip(matrix, deviations, strict=True):
            if (np.abs(row) > deviation * deviations + rounding).any():
                return False
    return True
