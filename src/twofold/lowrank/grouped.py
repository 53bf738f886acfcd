"""Schemes as they are registered: of layers with groups they fit each group.

The groups of a convolution share no channel, neither of the input nor of the output. So whatever a scheme
does to a layer it does to each group, and the stacks, all of the same ranks, become one stack of grouped
convolutions; energies and their losses add up. Ranks count the channels of one group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from twofold.conv import (
    Array,
    ConvGeometry,
    ConvLayer,
    Factors,
    FactorStatistics,
    LayerStatistics,
    SecondPass,
    Size,
)
from twofold.errors import ModelError, OptionError
from twofold.lowrank.groups import (
    group_factor_statistics,
    group_layers,
    group_statistics,
    one_group,
    side_by_side,
    widened,
)
from twofold.lowrank.measure import energy
from twofold.lowrank.options import FitOptions
from twofold.lowrank.problem import Problem
from twofold.lowrank.protocols import Begun, Factorization, KnownErrors, Scheme
from twofold.lowrank.regression import no_second_pass
from twofold.lowrank.strips import modelled_energy


@dataclass(frozen=True)
class OverGroups:
    """A scheme for layers with one group, made to take layers with several.

    Attributes:
        inner: the scheme.
    """

    inner: Scheme

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def summary(self) -> str:
        return self.inner.summary

    @property
    def nested(self) -> bool:
        return self.inner.nested

    @property
    def outputs_suffice(self) -> bool:
        return self.inner.outputs_suffice

    def rejection(self, geometry: ConvGeometry) -> str | None:
        if 1 < geometry.groups == geometry.c_in:
            return f"depthwise convolution (groups = {geometry.groups}, one input channel each)"
        return self.inner.rejection(one_group(geometry))

    def variants(self, geometry: ConvGeometry) -> tuple[str, ...]:
        return self.inner.variants(one_group(geometry))

    def full_rank(self, geometry: ConvGeometry, variant: str) -> Size:
        return self.inner.full_rank(one_group(geometry), variant)

    def chain(self, geometry: ConvGeometry, variant: str, ranks: Size) -> tuple[ConvGeometry, ...]:
        """See `Scheme`."""
        chain = self.inner.chain(one_group(geometry), variant, ranks)
        return tuple(widened(part, geometry.groups) for part in chain)

    def work(self, geometry: ConvGeometry, variant: str, refine: int) -> tuple[float, float]:
        """See `Scheme`; of all groups together."""
        fit, stack = self.inner.work(one_group(geometry), variant, refine)
        return geometry.groups * fit, geometry.groups * stack

    def error_curve(self, geometry: ConvGeometry, limits: Size, known: Mapping[Size, float]) -> Array:
        """See `Scheme`; of all groups together."""
        return self.inner.error_curve(one_group(geometry), limits, known)

    def factorize(
        self, layer: ConvLayer, variant: str, statistics: LayerStatistics | None = None, *,
        max_ranks: Size | None = None, options: FitOptions | None = None,
        second_pass: SecondPass | None = None,
    ) -> Factorization:  # fmt: skip
        """Decompose a layer once, for every rank up to `max_ranks`.

        Args:
            layer: the layer; must not be rejected, must have its weight.
            variant: one of `variants(layer.geometry)`.
            statistics: what its inputs look like; None fits the weights alone.
            max_ranks: largest ranks that will be read; None means full rank. Fewer cost less.
            options: numerical options.
            second_pass: gathers what the fit needs where `statistics` holds no full covariance.

        Raises:
            ModelError: weights are missing or not finite, or statistics do not fit the layer.
            OptionError: an unknown variant, or a layer that the scheme rejects.
        """
        problems = Problems(layer, statistics, options or FitOptions(), second_pass)
        return self.fit(problems, variant, max_ranks)

    def fit(self, problems: Problems, variant: str, max_ranks: Size | None = None) -> Factorization:
        """The same, of problems that other schemes may be given, too."""
        layer = problems.layer
        self._check(layer, variant)
        full = self.full_rank(layer.geometry, variant)
        ranks = tuple(map(min, full, max_ranks)) if max_ranks else full
        found = [self.inner.fit(problem, variant, ranks) for problem in problems.parts]
        done = [one for one in found if isinstance(one, Factorization)]
        if begun := [one for one in found if isinstance(one, Begun)]:
            seen = _look(problems, begun)
            done = [one.finish(its) for one, its in zip(begun, seen, strict=True)]
            energies = [_output_energy(one.pair, its) for one, its in zip(begun, seen, strict=True)]
        else:
            energies = problems.energies
        if len(done) == 1:
            return done[0]
        return _joined(
            layer.name, done, energies, problems.relay, partial(self.error_curve, layer.geometry, ranks)
        )

    def _check(self, layer: ConvLayer, variant: str) -> None:
        reason = self.rejection(layer.geometry)
        if reason is not None:
            raise OptionError(f"{layer.name}: scheme '{self.name}' does not apply: {reason}")
        known = self.variants(layer.geometry)
        if variant not in known:
            listed = ", ".join(map(repr, known))
            raise OptionError(f"scheme '{self.name}' has no variant '{variant}'; it has {listed}")


@dataclass(frozen=True, eq=False)
class Problems:
    """A layer, and the problem that each of its groups is; see `Problem`."""

    layer: ConvLayer
    statistics: LayerStatistics | None
    options: FitOptions
    second_pass: SecondPass | None

    @property
    def over_the_limit(self) -> bool:
        return self.statistics is not None and self.statistics.covariance is None

    @cached_property
    def parts(self) -> tuple[Problem, ...]:
        """One for each group.

        Raises:
            ModelError: the statistics are not those of so many groups.
        """
        groups = self.layer.geometry.groups
        if groups == 1:
            return (Problem(self.layer, self.statistics, self.options, self.second_pass),)
        shape = (groups, self.layer.geometry.params // self.layer.geometry.c_out)
        if self.statistics is not None and self.statistics.mean.shape != shape:
            raise ModelError(
                f"{self.layer.name}: its statistics are not those of {groups} groups; gather them for this "
                "model"
            )
        pairs = zip(group_layers(self.layer), group_statistics(self.statistics, groups), strict=True)
        ask = None if self.relay is None else self.relay.ask
        return tuple(Problem(one, its, self.options, ask) for one, its in pairs)

    @cached_property
    def relay(self) -> Relay | None:
        """What makes one of the passes that the groups ask for, where they may."""
        return None if self.second_pass is None else Relay(self.layer, self.second_pass)

    @cached_property
    def energies(self) -> list[float]:
        """Energy of each group; over the memory limit as a model of what it sees has it."""
        if len(self.parts) == 1:
            return [1.0]
        if self.over_the_limit:
            return [modelled_energy(part.layer, part.seen) for part in self.parts]
        return [energy(part.layer, part.statistics) for part in self.parts]


class _Asked(Exception):  # noqa: N818 - no error: it carries a question out of a fit
    def __init__(self, pair: Factors) -> None:
        self.pair = pair


class Relay:
    """One pass over the data where the fits of all groups ask for one at the same time, each for its own.

    Each is begun to learn its pair, and once more with the answer; what it does before is kept.
    """

    def __init__(self, layer: ConvLayer, second_pass: SecondPass) -> None:
        """Stand between the groups of a layer and its pass."""
        self._layer, self._second_pass = layer, second_pass
        self._answer: FactorStatistics | None = None

    def ask(self, layer: ConvLayer, pair: Factors) -> FactorStatistics:
        """The `SecondPass` of a group."""
        if self._answer is None:
            raise _Asked(pair)
        return self._answer

    def stacks(self, parts: Sequence[Factorization], ranks: Size) -> list[Factors]:
        """The stacks of all groups."""
        found, pairs = list[Factors](), list[Factors]()
        for part in parts:
            try:
                found.append(part.factors(ranks))
            except _Asked as asked:
                pairs.append(asked.pair)
        if not pairs:
            return found
        assert len(pairs) == len(parts), "Bug: the fits of some groups alone ask for a pass"
        seen = group_factor_statistics(self._second_pass(self._layer, side_by_side(pairs)), len(parts))
        try:
            for part, self._answer in zip(parts, seen, strict=True):
                found.append(part.factors(ranks))
        finally:
            self._answer = None
        return found


def _look(problems: Problems, begun: Sequence[Begun]) -> list[FactorStatistics]:
    """What another pass over the data sees behind the first factors of all groups."""
    if problems.second_pass is None:
        raise OptionError(no_second_pass(problems.layer))
    if len(begun) == 1:
        return [problems.second_pass(problems.layer, begun[0].pair)]
    seen = problems.second_pass(problems.layer, side_by_side([one.pair for one in begun]))
    return group_factor_statistics(seen, len(begun))


def _output_energy(pair: Factors, seen: FactorStatistics) -> float:
    """Variance of a layer's outputs y = H z + (y - H z), summed over the channels."""
    H = pair.convs[1].weight.reshape(pair.convs[1].geometry.c_out, -1).T
    explained = np.sum(H * (seen.covariance @ H)) + 2 * np.sum(H * seen.remainder)
    return max(0.0, float(explained + seen.remainder_energy))


def _joined(
    layer: str, parts: Sequence[Factorization], energies: Sequence[float], relay: Relay | None,
    curve: Callable[[Mapping[Size, float]], Array],
) -> Factorization:  # fmt: skip
    """The factorizations of all groups, read at the same ranks; each weighs as its energy does."""
    energy_weights = np.array(energies) / (sum(energies) or 1.0)

    def joined(of_parts: Sequence[Mapping[Size, float]]) -> dict[Size, float]:
        return {
            ranks: float(np.dot([errors.get(ranks, 0.0) for errors in of_parts], energy_weights))
            for ranks in dict.fromkeys(ranks for errors in of_parts for ranks in errors)
        }

    def known() -> KnownErrors:
        of_parts = [part.known() for part in parts if part.known is not None]
        return KnownErrors(
            joined([one.expected for one in of_parts]), joined([one.fitted for one in of_parts])
        )

    def errors() -> Array:
        of_parts = [part.energy_errors() for part in parts]
        if parts[0].known is not None:  # and they know what these errors are read from now
            return curve(known().errors())
        return np.asarray(np.stack(of_parts, axis=-1) @ energy_weights)

    def quick(ranks: Size) -> tuple[float, Factors]:
        lost, stacks = zip(*(part.trial(ranks) for part in parts), strict=True)
        return float(np.dot(lost, energy_weights)), side_by_side(stacks)

    def build(ranks: Size) -> Factors:
        stacks = [one.factors(ranks) for one in parts] if relay is None else relay.stacks(parts, ranks)
        return side_by_side(stacks)

    return replace(
        parts[0], layer=layer, errors=errors, quick=quick, build=build,
        ridge=max(part.ridge for part in parts), singular_values=None,
        known=None if parts[0].known is None else known,
    )  # fmt: skip
