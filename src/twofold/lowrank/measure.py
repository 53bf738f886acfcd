"""What a finished stack is worth: its error against the layer, from the factors themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from twofold.conv import Array, ConvLayer, Factors, LayerStatistics
from twofold.errors import OptionError
from twofold.lowrank.assemble import checked_weight
from twofold.lowrank.covariance import check_statistics
from twofold.lowrank.groups import group_factors, group_layers, group_statistics

#: How much the energy error may grow by rounding factors to half precision, relative to itself.
HARMLESS = 1e-3
_HALF_BITS = 11


def as_stored(layer: ConvLayer, factors: Factors) -> Factors:
    """Round the weights of a stack to half precision, where its layer is stored so and rounding does no harm.

    Half precision keeps 11 bits: two rounded factors lose about 1e-7 of the energy, whatever their rank.
    Beside what a truncation loses that is nothing, and the model stays small. Near full rank it is all that
    is lost, and shows in the network's output; then the factors keep float32.

    Returns:
        The rounded stack if its energy error is at most `HARMLESS` above that of `factors`, which else come
        back as they are. All of a stack or nothing.
    """
    if layer.bits != _HALF_BITS:
        return factors
    with np.errstate(over="ignore"):
        rounded = [conv.weight.astype(np.float16).astype(conv.weight.dtype) for conv in factors.convs]
    if not all(np.isfinite(weight).all() for weight in rounded):
        return factors
    convs = tuple(replace(conv, weight=weight) for conv, weight in zip(factors.convs, rounded, strict=True))
    coarse = replace(factors, convs=convs)
    harmless = energy_error(layer, coarse) <= (1 + HARMLESS) * energy_error(layer, factors)
    return coarse if harmless else factors


def composed(factors: Factors) -> Array:
    """Return the one weight (C_out, C_in / groups, *kernel), float64, of what a stack computes.

    Along every axis at most one convolution of a stack has a kernel larger than 1, so that the taps of the
    stack are the products of the taps of its convolutions.
    """
    if factors.convs[0].geometry.groups > 1:
        return np.concatenate([composed(part) for part in group_factors(factors)])
    total = factors.convs[0].weight.astype(np.float64)
    for conv in factors.convs[1:]:
        kernel = tuple(max(a, b) for a, b in zip(total.shape[2:], conv.geometry.kernel, strict=True))
        following = conv.weight.astype(np.float64)
        groups = conv.geometry.groups
        combined = np.empty((following.shape[0], total.shape[1], *kernel))
        for tap in np.ndindex(*kernel):
            outer = tuple(min(t, k - 1) for t, k in zip(tap, following.shape[2:], strict=True))
            inner = tuple(min(t, k - 1) for t, k in zip(tap, total.shape[2:], strict=True))
            at: tuple[slice | int, ...] = (slice(None), slice(None))
            later, earlier = following[(*at, *outer)], total[(*at, *inner)]
            product = later.reshape(groups, -1, later.shape[1]) @ earlier.reshape(
                groups, -1, earlier.shape[1]
            )
            combined[(*at, *tap)] = product.reshape(len(later), -1)
        total = combined
    return total


def energy_error(layer: ConvLayer, factors: Factors, statistics: LayerStatistics | None = None) -> float:
    """Measure the energy error of a stack: ||W - W'||^2 / ||W||^2, or with statistics the output's.

    With statistics it is tr(D C D^T) / tr(W C W^T), D = W - W'; a mean that the bias does not correct is not
    counted. Costs one product with the covariance.

    Raises:
        OptionError: the statistics have no full covariance (the layer was over the memory limit).
    """
    W = checked_weight(layer)
    left = replace(layer, weight=W - composed(factors).reshape(W.shape))
    lost, whole = energy(left, statistics), energy(layer, statistics)
    return lost / whole if whole > 0 else 0.0


def energy(layer: ConvLayer, statistics: LayerStatistics | None = None) -> float:
    """Energy of a layer: ||W||^2, or with statistics the variance of its output, tr(W C W^T).

    Raises:
        OptionError: the statistics have no full covariance (the layer was over the memory limit).
    """
    groups = layer.geometry.groups
    if groups > 1:
        parts = zip(group_layers(layer), group_statistics(statistics, groups), strict=True)
        return sum(energy(one, its) for one, its in parts)
    W = checked_weight(layer).reshape(layer.geometry.c_out, -1).astype(np.float64)
    if statistics is None:
        return float(np.sum(W**2))
    check_statistics(layer, statistics)
    if statistics.covariance is None:
        raise OptionError(f"{layer.name}: its statistics hold no full covariance to measure with")
    return float(np.sum(W * (W @ statistics.covariance)))
