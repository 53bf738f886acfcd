"""Refitting the last factor of a pair to what the layer gave before its inputs were changed.

Layers before have been decomposed, too: the pair sees x', where the layer saw x. With the first factor fixed,
the pair's output is linear in what its second factor sees, z, so that the remainder y - H z regressed on z
corrects H. It is a ridge regression towards the H that is there:

    dH = (cov(z) + c I)^-1 cov(z, y - H z),        c = ridge * mean variance of z,

and the bias makes the mean output that of the layer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.linalg

from twofold.conv import ConvLayer, Factors, FactorStatistics
from twofold.lowrank.measure import as_stored


def corrected_pair(layer: ConvLayer, pair: Factors, seen: FactorStatistics, ridge: float) -> Factors:
    """Correct the second of two convolutions.

    Args:
        layer: the layer that the pair stands for.
        pair: two convolutions without groups.
        seen: the pair on the changed inputs, its remainder against the layer on the original ones.
        ridge: multiple of the mean variance of z.
    """
    first, last = pair.convs
    variance = float(np.trace(seen.covariance)) / len(seen.covariance)
    if not variance > 0:  # nothing reaches the second convolution that could tell anything
        return pair
    S = seen.covariance + ridge * variance * np.eye(len(seen.covariance))
    dH = scipy.linalg.solve(S, seen.remainder, assume_a="pos", check_finite=False)
    weight = last.weight + dH.T.reshape(last.weight.shape)
    bias = seen.remainder_mean - dH.T @ seen.mean
    if layer.bias is not None:
        bias = bias + layer.bias
    dtype = last.weight.dtype
    fixed = replace(last, weight=weight.astype(dtype), bias=bias.astype(dtype))
    return as_stored(layer, replace(pair, convs=(first, fixed)))
