"""Moments of what a layer with groups sees: those of each group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from twofold.calibration.statistics import StatisticsAccumulator, StatisticsOptions
from twofold.conv import Array, ConvGeometry, LayerStatistics
from twofold.errors import InputError
from twofold.lowrank.groups import one_group


class GroupedAccumulator:
    """Gathers the `LayerStatistics` of one layer, of all its groups at once.

    A law that a test checks: each group's are those that a layer of this group alone would have.
    """

    def __init__(self, geometry: ConvGeometry, options: StatisticsOptions | None = None) -> None:
        options = options or StatisticsOptions()
        if options.memory is not None:
            options = replace(options, memory=options.memory // geometry.groups)
        self._geometry = geometry
        self._parts = [StatisticsAccumulator(one_group(geometry), options) for _ in range(geometry.groups)]

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
            independent=float(np.mean([part.independent for part in parts])),
        )


def accumulator(
    geometry: ConvGeometry, options: StatisticsOptions | None = None
) -> StatisticsAccumulator | GroupedAccumulator:
    """What gathers the statistics of a layer, with groups or without."""
    if geometry.groups > 1:
        return GroupedAccumulator(geometry, options)
    return StatisticsAccumulator(geometry, options)
