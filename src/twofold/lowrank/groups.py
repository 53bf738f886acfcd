"""Grouped convolutions taken apart, and put side by side again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from twofold.conv import (
    Array,
    ConvGeometry,
    ConvLayer,
    FactorConv,
    Factors,
    FactorStatistics,
    LayerStatistics,
)


def one_group(geometry: ConvGeometry, groups: int = 0) -> ConvGeometry:
    """The shape of one of so many equal parts of a convolution; by default of one of its own groups."""
    g = groups or geometry.groups
    return replace(geometry, c_out=geometry.c_out // g, c_in=geometry.c_in // g, groups=geometry.groups // g)


def widened(geometry: ConvGeometry, groups: int) -> ConvGeometry:
    """The shape of `groups` equal convolutions side by side."""
    return replace(
        geometry, c_out=geometry.c_out * groups, c_in=geometry.c_in * groups,
        groups=geometry.groups * groups,
    )  # fmt: skip


def group_layers(layer: ConvLayer) -> list[ConvLayer]:
    """The groups of a layer, each as a layer."""
    groups = layer.geometry.groups
    weights: Sequence[Array | None] = [None] * groups
    biases: Sequence[Array | None] = [None] * groups
    if layer.weight is not None:
        weights = np.split(layer.weight, groups)
    if layer.bias is not None:
        biases = np.split(layer.bias, groups)
    shape = one_group(layer.geometry)
    return [ConvLayer(layer.name, shape, w, b) for w, b in zip(weights, biases, strict=True)]


def group_statistics(statistics: LayerStatistics | None, groups: int) -> list[LayerStatistics | None]:
    """The statistics of each group; see `LayerStatistics`."""
    if statistics is None:
        return [None] * groups
    covariance = statistics.covariance
    return [
        LayerStatistics(
            statistics.count,
            statistics.mean[i],
            None if covariance is None else covariance[i],
            tuple(strip[i] for strip in statistics.strips),
        )
        for i in range(groups)
    ]


def group_factor_statistics(seen: FactorStatistics, groups: int) -> list[FactorStatistics]:
    """The same of each group; see `FactorStatistics`."""
    arrays = (seen.covariance, seen.remainder, seen.remainder_energy, seen.mean, seen.remainder_mean)
    return [FactorStatistics(seen.count, *(array[i] for array in arrays)) for i in range(groups)]


def group_factors(factors: Factors) -> list[Factors]:
    """Undo `side_by_side`; the first convolution has the groups of the layer, a later one may have more."""
    groups = factors.convs[0].geometry.groups
    rows = []
    for conv in factors.convs:
        shape = one_group(conv.geometry, groups)
        biases: Sequence[Array | None] = [None] * groups if conv.bias is None else np.split(conv.bias, groups)
        weights = np.split(conv.weight, groups)
        rows.append([FactorConv(shape, w, b) for w, b in zip(weights, biases, strict=True)])
    return [Factors(factors.scheme, factors.ranks, convs) for convs in zip(*rows, strict=True)]


def side_by_side(stacks: Sequence[Factors]) -> Factors:
    """Stacks of the same shapes as one stack of grouped convolutions."""
    convs = []
    for same in zip(*(stack.convs for stack in stacks), strict=True):
        biases = [conv.bias for conv in same if conv.bias is not None]
        bias = np.concatenate(biases) if biases else None
        weight = np.concatenate([conv.weight for conv in same])
        convs.append(FactorConv(widened(same[0].geometry, len(stacks)), weight, bias))
    return Factors(stacks[0].scheme, stacks[0].ranks, tuple(convs))
