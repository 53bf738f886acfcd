"""What a scheme fits: a layer without groups, and what its inputs look like."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from twofold.conv import Array, ConvLayer, LayerStatistics, SecondPass
from twofold.device import product
from twofold.errors import ModelError
from twofold.lowrank.assemble import checked_weight
from twofold.lowrank.covariance import DOUBLE, PatchCovariance, check_statistics
from twofold.lowrank.options import FitOptions
from twofold.lowrank.unfold import Split


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer to be fitted, by several schemes perhaps.

    Attributes:
        layer: without groups.
        statistics: of its inputs; None fits the weights alone.
        options: numerical options.
        second_pass: gathers what a fit needs where `statistics` holds no full covariance.
    """

    layer: ConvLayer
    statistics: LayerStatistics | None = None
    options: FitOptions = field(default_factory=FitOptions)
    second_pass: SecondPass | None = None

    @cached_property
    def weight(self) -> Array:
        """The layer's weight (C_out, C_in, *kernel).

        Raises:
            ModelError: it is missing or not finite.
        """
        return checked_weight(self.layer)

    @property
    def W(self) -> Array:  # noqa: N802 - a matrix
        """The weight as it is multiplied by patches: (C_out, d), float64."""
        return self.weight.reshape(len(self.weight), -1).astype(np.float64, copy=False)

    @property
    def mean(self) -> Array | None:
        """Mean of the patches (d,); None without statistics."""
        return None if self.statistics is None else self.statistics.mean

    @property
    def over_the_limit(self) -> bool:
        """Whether the covariance of the patches was over the memory limit."""
        return self.statistics is not None and self.statistics.covariance is None

    @cached_property
    def seen(self) -> LayerStatistics:
        """The statistics, where there are any.

        Raises:
            ModelError: they belong to another layer, hold nothing or are not finite.
        """
        assert self.statistics is not None, "Bug: the weights alone have no statistics"
        check_statistics(self.layer, self.statistics)
        return self.statistics

    @cached_property
    def variance(self) -> float:
        """Mean variance of a patch's values: trace of the covariance over its size."""
        strip = self.seen.strips[0]
        return float(np.sum(strip if strip.ndim == 1 else np.diagonal(strip))) / self.seen.mean.size

    @property
    def live_variance(self) -> float:
        """The same.

        Raises:
            ModelError: it is 0.
        """
        if not self.variance > 0:
            raise ModelError(
                f"{self.layer.name}: its inputs never vary over the calibration inputs, so nothing can be "
                "fitted to them; skip the layer or give other inputs"
            )
        return self.variance

    @property
    def covariance(self) -> Array:
        """Covariance of the patches (d, d), which is not over the limit."""
        assert self.seen.covariance is not None, "Bug: the covariance was over the limit"
        return self.seen.covariance

    @cached_property
    def _crosses(self) -> dict[float, Array]:
        return {}

    def cross(self, ridge: float) -> Array:
        """Covariance of the patches with the layer's outputs, C W^T (d, C_out); C holds the ridge."""
        if ridge not in self._crosses:
            W = self.W.T
            self._crosses[ridge] = product(self.covariance, W) + ridge * self.variance * W
        return self._crosses[ridge]

    def patches(self, split: Split, ridge: float) -> PatchCovariance:
        """The covariance of the patches with a ridge, as a split sees it."""
        return PatchCovariance(self.covariance, ridge * self.variance, self.layer.geometry, split)

    def kept(self, split: Split, ridge: float) -> PatchCovariance:
        """The same to be held until a rank is chosen: large ones in float32, and all splits share one."""
        return replace(self.patches(split, ridge), matrix=self.held)

    @cached_property
    def held(self) -> Array:
        """The covariance (d, d) that is held until ranks are chosen: in float32 where it is large."""
        large = len(self.covariance) > DOUBLE
        return self.covariance.astype(np.float32) if large else self.covariance
