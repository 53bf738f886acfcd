"""Grouped convolutions: every group is a layer of its own, and the stacks of all stand side by side.

The groups of a convolution share no channel, neither of the input nor of the output. So whatever a scheme
does to a layer it does to each group, and the stacks, all of the same ranks, become one stack of grouped
convolutions; energies and their losses add up. Ranks count the channels of one group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING, Protocol

import numpy as np

from twofold.conv import (
    Array,
    ConvGeometry,
    ConvLayer,
    FactorConv,
    Factors,
    FactorStatistics,
    LayerStatistics,
    SecondPass,
    Size,
)
from twofold.errors import ModelError, OptionError

if TYPE_CHECKING:
    from twofold.lowrank.options import FitOptions
    from twofold.lowrank.schemes import Factorization, Scheme


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


@dataclass(frozen=True, eq=False)
class GroupedFactorization:
    """The factorizations of all groups, read at the same ranks.

    Attributes:
        parts: one per group.
        shares: (groups,), each group's part of the whole energy.
    """

    parts: tuple[Factorization, ...]
    shares: Array

    @property
    def scheme(self) -> str:
        return self.parts[0].scheme

    @property
    def variant(self) -> str:
        return self.parts[0].variant

    @property
    def max_ranks(self) -> Size:
        return self.parts[0].max_ranks

    @property
    def ridge(self) -> float:
        return max(part.ridge for part in self.parts)

    @property
    def singular_values(self) -> None:
        return None

    def energy_errors(self) -> Array:
        errors = np.stack([part.energy_errors() for part in self.parts], axis=-1)
        return np.asarray(errors @ self.shares)

    def energy_error(self, ranks: Size) -> float:
        return float(np.dot([part.energy_error(ranks) for part in self.parts], self.shares))

    def relative_error(self, ranks: Size) -> float:
        return sqrt(self.energy_error(ranks))

    def factors(self, ranks: Size) -> Factors:
        return side_by_side([part.factors(ranks) for part in self.parts])

    def trial_ranks(self) -> tuple[Size, ...] | None:
        return self.parts[0].trial_ranks()

    def trial(self, ranks: Size) -> tuple[float, Factors]:
        errors, stacks = zip(*(part.trial(ranks) for part in self.parts), strict=True)
        return float(np.dot(errors, self.shares)), side_by_side(stacks)


class _Fit(Protocol):
    """The fit of one group."""

    def __call__(self, *, second_pass: SecondPass | None = None) -> Factorization:
        """Do it."""


class _Asked(Exception):  # noqa: N818 - no error: it carries a question out of a fit
    def __init__(self, pair: Factors) -> None:
        self.pair = pair


def _ask(layer: ConvLayer, pair: Factors) -> FactorStatistics:
    raise _Asked(pair)


@dataclass(frozen=True)
class _Answer:
    seen: FactorStatistics

    def __call__(self, layer: ConvLayer, pair: Factors) -> FactorStatistics:
        return self.seen


def _together(
    layer: ConvLayer, fits: Sequence[_Fit], second_pass: SecondPass
) -> tuple[list[Factorization], list[float]]:
    """Fit all groups with one pass over the data; gives the energy of each group's outputs, too.

    A fit asks about one pair, at its beginning. So each is begun to learn its pair, and once more with the
    answer; what it does before is cheap beside a pass over the data.
    """
    pairs = []
    for fit in fits:
        try:
            fit(second_pass=_ask)
        except _Asked as asked:
            pairs.append(asked.pair)
    assert len(pairs) == len(fits), "Bug: a scheme does without the covariance that is not there"
    seen = group_factor_statistics(second_pass(layer, side_by_side(pairs)), len(fits))
    parts = [fit(second_pass=_Answer(its)) for fit, its in zip(fits, seen, strict=True)]
    return parts, [_output_energy(pair, its) for pair, its in zip(pairs, seen, strict=True)]


def _output_energy(pair: Factors, seen: FactorStatistics) -> float:
    """Variance of a layer's outputs y = H z + (y - H z), summed over the channels."""
    H = pair.convs[1].weight.reshape(pair.convs[1].geometry.c_out, -1).T
    explained = np.sum(H * (seen.covariance @ H)) + 2 * np.sum(H * seen.remainder)
    return max(0.0, float(explained + seen.remainder_energy))


@dataclass(frozen=True)
class OverGroups:
    """A scheme for layers with one group, made to take layers with several.

    Attributes:
        inner: the scheme.
        energy: energy of a layer, given its statistics; 0 for a layer that does nothing.
    """

    inner: Scheme
    energy: Callable[[ConvLayer, LayerStatistics | None], float]

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def summary(self) -> str:
        return self.inner.summary

    @property
    def nested(self) -> bool:
        return self.inner.nested

    def refusal(self, geometry: ConvGeometry) -> str | None:
        if 1 < geometry.groups == geometry.c_in:
            return f"depthwise convolution (groups = {geometry.groups}, one input channel each)"
        return self.inner.refusal(one_group(geometry))

    def variants(self, geometry: ConvGeometry) -> tuple[str, ...]:
        return self.inner.variants(one_group(geometry))

    def full_rank(self, geometry: ConvGeometry, variant: str) -> Size:
        return self.inner.full_rank(one_group(geometry), variant)

    def chain(self, geometry: ConvGeometry, variant: str, ranks: Size) -> tuple[ConvGeometry, ...]:
        chain = self.inner.chain(one_group(geometry), variant, ranks)
        return tuple(widened(part, geometry.groups) for part in chain)

    def factorize(
        self, layer: ConvLayer, variant: str, statistics: LayerStatistics | None = None, *,
        max_ranks: Size | None = None, options: FitOptions | None = None,
        second_pass: SecondPass | None = None,
    ) -> Factorization:  # fmt: skip
        groups = layer.geometry.groups
        if groups == 1:
            return self.inner.factorize(
                layer, variant, statistics, max_ranks=max_ranks, options=options, second_pass=second_pass
            )
        reason = self.refusal(layer.geometry)
        if reason is not None:
            raise OptionError(f"{layer.name}: scheme '{self.name}' does not apply: {reason}")
        shape = (groups, layer.geometry.params // layer.geometry.c_out)
        if statistics is not None and statistics.mean.shape != shape:
            raise ModelError(
                f"{layer.name}: its statistics are not those of {groups} groups; gather them for this model"
            )
        if statistics is not None and statistics.covariance is None and not self.nested:
            raise OptionError(
                f"{layer.name}: has {groups} groups and a covariance over the memory limit, where scheme "
                f"'{self.name}' cannot be fitted; raise the limit, or leave the layer to another scheme"
            )
        layers, seen = group_layers(layer), group_statistics(statistics, groups)
        fits: list[_Fit] = [
            partial(self.inner.factorize, one, variant, its, max_ranks=max_ranks, options=options)
            for one, its in zip(layers, seen, strict=True)
        ]
        if statistics is not None and statistics.covariance is None and second_pass is not None:
            parts, energies = _together(layer, fits, second_pass)
        else:
            parts = [fit() for fit in fits]
            energies = [self.energy(one, its) for one, its in zip(layers, seen, strict=True)]
        whole = sum(energies)
        return GroupedFactorization(tuple(parts), np.array(energies) / (whole or 1.0))
