"""Moments of what a layer with groups sees, or what a pair leaves of it: those of each group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from twofold.calibration.statistics import FactorAccumulator, StatisticsAccumulator, StatisticsOptions
from twofold.calibration.vectors import VectorAccumulator, over_the_limit
from twofold.conv import Array, ConvGeometry, ConvLayer, Factors, FactorStatistics, LayerStatistics
from twofold.errors import InputError
from twofold.lowrank.groups import group_factors, group_layers, one_group


class GroupedAccumulator:
    """Gathers the `LayerStatistics` of one layer, of all its groups at once.

    A law that a test checks: each group's are those that a layer of this group alone would have.
    """

    def __init__(self, geometry: ConvGeometry, options: StatisticsOptions | None = None) -> None:
        options = options or StatisticsOptions()
        if options.memory is not None:
            options = replace(options, memory=options.memory // geometry.groups)
        self._geometry = geometry
        self._parts = [_one(one_group(geometry), options) for _ in range(geometry.groups)]

    @property
    def full(self) -> bool:
        """Whether the full covariance is gathered."""
        return self._parts[0].full

    @property
    def count(self) -> int:
        """Number of patches that were seen."""
        return self._parts[0].count

    def update(self, x: Array) -> None:
        """Look at a batch (N, C_in, *size) of the layer's inputs, before padding.

        Raises:
            InputError: the batch does not fit the geometry.
        """
        if x.ndim != 2 + len(self._geometry.kernel) or x.shape[1] != self._geometry.c_in:
            raise InputError(
                f"a batch of shape (N, {self._geometry.c_in}, size of {len(self._geometry.kernel)} axes) is "
                f"needed, got {x.shape}"
            )
        for part, own in zip(self._parts, np.split(x, len(self._parts), axis=1), strict=True):
            part.update(own)

    def result(self) -> LayerStatistics:
        """Return the moments of everything that was seen, with the groups as the first axis.

        Raises:
            InputError: nothing was seen.
        """
        parts = [part.result() for part in self._parts]
        covariances = [part.covariance for part in parts if part.covariance is not None]
        return LayerStatistics(
            parts[0].count,
            np.stack([part.mean for part in parts]),
            np.stack(covariances) if covariances else None,
            tuple(np.stack(strips) for strips in zip(*(part.strips for part in parts), strict=True)),
        )


class GroupedFactorAccumulator:
    """Gathers the `FactorStatistics` of a pair for a layer with groups, of all groups at once."""

    def __init__(self, layer: ConvLayer, pair: Factors, options: StatisticsOptions | None = None) -> None:
        groups = zip(group_layers(layer), group_factors(pair), strict=True)
        self._parts = [FactorAccumulator(one, its, options) for one, its in groups]

    def update(self, x: Array) -> None:
        """Look at a batch (N, C_in, *size) of the layer's inputs."""
        for part, own in zip(self._parts, np.split(x, len(self._parts), axis=1), strict=True):
            part.update(own)

    def result(self) -> FactorStatistics:
        """Return the moments of everything that was seen, with the groups as the first axis.

        Raises:
            InputError: nothing was seen.
        """
        parts = [part.result() for part in self._parts]
        names = ("covariance", "remainder", "remainder_energy", "mean", "remainder_mean")
        return FactorStatistics(
            parts[0].count, *(np.stack([getattr(part, name) for part in parts]) for name in names)
        )


def accumulator(
    geometry: ConvGeometry, options: StatisticsOptions | None = None
) -> StatisticsAccumulator | VectorAccumulator | GroupedAccumulator:
    """What gathers the statistics of a layer, with groups or without."""
    if geometry.groups > 1:
        return GroupedAccumulator(geometry, options)
    return _one(geometry, options or StatisticsOptions())


def _one(geometry: ConvGeometry, options: StatisticsOptions) -> StatisticsAccumulator | VectorAccumulator:
    found = VectorAccumulator if over_the_limit(geometry, options) else StatisticsAccumulator
    return found(geometry, options)


def factor_accumulator(
    layer: ConvLayer, pair: Factors, options: StatisticsOptions | None = None
) -> FactorAccumulator | GroupedFactorAccumulator:
    """What gathers the statistics of a pair, with groups or without."""
    made = GroupedFactorAccumulator if layer.geometry.groups > 1 else FactorAccumulator
    return made(layer, pair, options)
