"""Refitting the last factor of a stack to what the layer gave before its inputs were changed.

Layers before have been decomposed, too: the stack sees x', where the layer saw x. With the factors before it
fixed, the stack's output is linear in what its last factor sees, z, so that the remainder y - H z regressed
on z corrects H. It is a ridge regression towards the H that is there:

    dH = (cov(z) + c I)^-1 cov(z, y - H z),        c = ridge * mean variance of z,

and the bias makes the mean output that of the layer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.linalg

from twofold.conv import ConvLayer, Factors, FactorStatistics
from twofold.lowrank.measure import as_stored


def corrected_stack(layer: ConvLayer, stack: Factors, seen: FactorStatistics, ridge: float) -> Factors:
    """Correct the last of several convolutions.

    Args:
        layer: the layer that the stack stands for; without groups.
        stack: two convolutions or more.
        seen: the stack on the changed inputs, its remainder against the layer on the original ones.
        ridge: multiple of the mean variance of z.
    """
    *before, last = stack.convs
    variance = float(np.trace(seen.covariance)) / len(seen.covariance)
    if not variance > 0:  # nothing reaches the last convolution that could tell anything
        return stack
    S = seen.covariance + ridge * variance * np.eye(len(seen.covariance))
    dH = scipy.linalg.solve(S, seen.remainder, assume_a="pos", check_finite=False)
    weight = last.weight + dH.T.reshape(last.weight.shape)
    bias = seen.remainder_mean - dH.T @ seen.mean
    if layer.bias is not None:
        bias = bias + layer.bias
    dtype = last.weight.dtype
    fixed = replace(last, weight=weight.astype(dtype), bias=bias.astype(dtype))
    return as_stored(layer, replace(stack, convs=(*before, fixed)))
