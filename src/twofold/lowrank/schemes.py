"""The schemes: which stacks of convolutions can replace a layer, and how each is fitted.

Everything that depends on the scheme's shape (which layers it takes, what a rank costs) is cheap and needs no
weights; `factorize` does the costly work once, and the `Factorization` it returns is read at every rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from twofold.conv import Array, ConvGeometry, ConvLayer, Factors, LayerStatistics, SecondPass, Size
from twofold.errors import OptionError
from twofold.lowrank import depthwise
from twofold.lowrank.groups import OverGroups
from twofold.lowrank.measure import energy
from twofold.lowrank.options import FitOptions
from twofold.lowrank.pair import channel_fit, fit, project
from twofold.lowrank.tucker import tucker_fit, tucker_project
from twofold.lowrank.unfold import Split, pair_chain, part


class RankErrors(Protocol):
    """What a plan reads of a factorization: the error at every rank.

    Two errors, one word for each: the *energy error* is the lost share of the energy (squared norm) of the
    weight, or, where statistics were given, of the output's variance on the inputs they describe; the
    *relative error* is its square root. Both are predictions for exactly the convolutions that
    `Factorization.factors` returns at these ranks (before rounding to their dtype; with `refine` an upper
    bound); where ranks are not nested, once `factors` was asked for them.
    """

    @property
    def scheme(self) -> str:
        """Registered name of the scheme."""

    @property
    def variant(self) -> str:
        """Which of the scheme's variants this is."""

    @property
    def max_ranks(self) -> Size:
        """Largest ranks that can be read."""

    @property
    def singular_values(self) -> Array | None:
        """All singular values of the unfolded weight, largest first, where the fit came by them."""

    def energy_errors(self) -> Array:
        """Energy error for all ranks at once: `energy_errors()[ranks]`, shape (max_rank + 1, ...).

        Index 0 along an axis means that nothing is kept, so that a plain index is a rank. Where every rank is
        a fit of its own, the errors of those that were not fitted yet are estimates.
        """

    def energy_error(self, ranks: Size) -> float:
        """Lost share of the energy at `ranks`, between 0 and 1."""


class Factorization(RankErrors, Protocol):
    """The decompositions of one layer by one scheme, readable at every rank."""

    @property
    def ridge(self) -> float:
        """Multiple of the mean input variance that was added to the covariance; 0 without statistics."""

    def relative_error(self, ranks: Size) -> float:
        """Square root of `energy_error`."""

    def factors(self, ranks: Size) -> Factors:
        """The stack of convolutions at `ranks`, in the layer's dtype (at least float32), bias on the last.

        Of a layer that is stored in half precision they are rounded to it, see `measure.as_stored`.

        Raises:
            OptionError: ranks outside 1..max_ranks.
        """

    def trial_ranks(self) -> tuple[Size, ...] | None:
        """Ranks that `trial` takes: those of a few quick fits; None where one factorization has all ranks."""

    def trial(self, ranks: Size) -> tuple[float, Factors]:
        """Energy error and stack of a quick fit, by which the effect of such errors can be measured."""


class Scheme(Protocol):
    """A kind of stack that can replace a convolution."""

    @property
    def name(self) -> str:
        """Key in the registry; lower case."""

    @property
    def summary(self) -> str:
        """One line for users: which convolutions come out."""

    @property
    def nested(self) -> bool:
        """Whether one factorization has all ranks at once; else every rank is a fit of its own."""

    def refusal(self, geometry: ConvGeometry) -> str | None:
        """Why the scheme does not apply to a layer, in words for users; None where it does."""

    def variants(self, geometry: ConvGeometry) -> tuple[str, ...]:
        """Names of the ways to apply it; ("",) where there is only one."""

    def full_rank(self, geometry: ConvGeometry, variant: str) -> Size:
        """Ranks at which the layer is reproduced exactly."""

    def chain(self, geometry: ConvGeometry, variant: str, ranks: Size) -> tuple[ConvGeometry, ...]:
        """Geometries of the stack at `ranks`."""

    def factorize(
        self, layer: ConvLayer, variant: str, statistics: LayerStatistics | None = None, *,
        max_ranks: Size | None = None, options: FitOptions | None = None,
        second_pass: SecondPass | None = None,
    ) -> Factorization:  # fmt: skip
        """Decompose a layer once, for every rank up to `max_ranks`.

        Args:
            layer: the layer; must not be refused, must have its weight.
            variant: one of `variants(layer.geometry)`.
            statistics: what its inputs look like; None fits the weights alone.
            max_ranks: largest ranks that will be read; None means full rank. Fewer cost less.
            options: numerical options.
            second_pass: gathers what the fit needs where `statistics` holds no full covariance.

        Raises:
            ModelError: weights are missing or not finite, or statistics do not fit the layer.
            OptionError: an unknown variant, or a layer that the scheme refuses.
        """


def _checked(scheme: Scheme, layer: ConvLayer, variant: str) -> None:
    reason = scheme.refusal(layer.geometry)
    if reason is not None:
        raise OptionError(f"{layer.name}: scheme '{scheme.name}' does not apply: {reason}")
    known = scheme.variants(layer.geometry)
    if variant not in known:
        listed = ", ".join(map(repr, known))
        raise OptionError(f"scheme '{scheme.name}' has no variant '{variant}'; it has {listed}")


@dataclass(frozen=True)
class Pair:
    """Schemes of two convolutions that share out the kernel's axes."""

    name: str
    summary: str
    nested: bool = field(default=True, init=False)

    def refusal(self, geometry: ConvGeometry) -> str | None:
        return None

    def variants(self, geometry: ConvGeometry) -> tuple[str, ...]:
        return ("",)

    def split(self, geometry: ConvGeometry, variant: str) -> Split:
        raise NotImplementedError

    def full_rank(self, geometry: ConvGeometry, variant: str) -> Size:
        split = self.split(geometry, variant)
        return (min(split.rows(geometry), split.columns(geometry)),)

    def chain(self, geometry: ConvGeometry, variant: str, ranks: Size) -> tuple[ConvGeometry, ...]:
        return pair_chain(geometry, self.split(geometry, variant), ranks[0])

    def factorize(
        self, layer: ConvLayer, variant: str, statistics: LayerStatistics | None = None, *,
        max_ranks: Size | None = None, options: FitOptions | None = None,
        second_pass: SecondPass | None = None,
    ) -> Factorization:  # fmt: skip
        _checked(self, layer, variant)
        split = self.split(layer.geometry, variant)
        limit = self.full_rank(layer.geometry, variant)[0]
        rank = min(limit, max_ranks[0]) if max_ranks else limit
        options = options or FitOptions()
        if statistics is None:
            return project(self.name, variant, layer, split, rank, options)
        if split.second:
            return fit(self.name, variant, layer, split, rank, statistics, options, second_pass)
        return channel_fit(self.name, variant, layer, split, rank, statistics, options, second_pass)


class Spatial(Pair):
    """One convolution along one axis, then one along the others; the axes that may come first are variants.

    A variant is named by its axes (depth, height, width), the first one in front: "hw", "wh"; "hdw".
    """

    def refusal(self, geometry: ConvGeometry) -> str | None:
        axes = len(geometry.kernel)
        if not geometry.meaning.spatial:
            return f"{geometry.meaning.words}; scheme 'channel' takes it"
        if axes not in (2, 3):
            return f"the kernel has {axes} {'axis' if axes == 1 else 'axes'}; two or three are needed"
        if sum(k > 1 for k in geometry.kernel) < 2:
            sides = "x".join(map(str, geometry.kernel))
            return f"the kernel is {sides}; {'both' if axes == 2 else 'two'} sides must be larger than 1"
        return None

    def variants(self, geometry: ConvGeometry) -> tuple[str, ...]:
        names = _axis_names(geometry)
        long = [name for name, k in zip(names, geometry.kernel, strict=False) if k > 1]
        return tuple(name + names.replace(name, "") for name in long) or (names,)

    def split(self, geometry: ConvGeometry, variant: str) -> Split:
        names = _axis_names(geometry)
        first = names.index(variant[0])
        return Split((first,), tuple(axis for axis in range(len(names)) if axis != first))


def _axis_names(geometry: ConvGeometry) -> str:
    return "dhw"[-len(geometry.kernel) :]


class Channel(Pair):
    """The layer with fewer outputs, then a 1x1 convolution; keeps Winograd kernels."""

    def split(self, geometry: ConvGeometry, variant: str) -> Split:
        return Split(tuple(range(len(geometry.kernel))), ())


class Input(Pair):
    """A 1x1 convolution, then the layer with fewer inputs."""

    def refusal(self, geometry: ConvGeometry) -> str | None:
        if max(geometry.kernel) < 2:
            return "the kernel has one tap; scheme 'channel' gives the same"
        return None

    def split(self, geometry: ConvGeometry, variant: str) -> Split:
        return Split((), tuple(range(len(geometry.kernel))))


@dataclass(frozen=True)
class Tucker2:
    """A 1x1 convolution, the layer with fewer inputs and outputs, a 1x1 convolution."""

    name: str
    summary: str
    nested: bool = field(default=True, init=False)

    def refusal(self, geometry: ConvGeometry) -> str | None:
        if max(geometry.kernel) < 2:
            return "the kernel has one tap; scheme 'channel' does the same with two convolutions"
        return None

    def variants(self, geometry: ConvGeometry) -> tuple[str, ...]:
        return ("",)

    def full_rank(self, geometry: ConvGeometry, variant: str) -> Size:
        taps = geometry.params // (geometry.c_out * geometry.c_in)
        return min(geometry.c_in, geometry.c_out * taps), min(geometry.c_out, geometry.c_in * taps)

    def chain(self, geometry: ConvGeometry, variant: str, ranks: Size) -> tuple[ConvGeometry, ...]:
        return (
            part(geometry, ranks[0], geometry.c_in, ()),
            part(geometry, ranks[1], ranks[0], tuple(range(len(geometry.kernel)))),
            part(geometry, geometry.c_out, ranks[1], ()),
        )

    def factorize(
        self, layer: ConvLayer, variant: str, statistics: LayerStatistics | None = None, *,
        max_ranks: Size | None = None, options: FitOptions | None = None,
        second_pass: SecondPass | None = None,
    ) -> Factorization:  # fmt: skip
        _checked(self, layer, variant)
        full = self.full_rank(layer.geometry, variant)
        ranks = (min(full[0], max_ranks[0]), min(full[1], max_ranks[1])) if max_ranks else (full[0], full[1])
        options = options or FitOptions()
        if statistics is None:
            return tucker_project(self.name, layer, ranks, options)
        return tucker_fit(self.name, layer, ranks, statistics, options, second_pass)


@dataclass(frozen=True)
class Depthwise:
    """A 1x1 convolution, a depthwise one with the layer's kernel, a 1x1 convolution."""

    name: str
    summary: str
    nested: bool = field(default=False, init=False)

    def refusal(self, geometry: ConvGeometry) -> str | None:
        if max(geometry.kernel) < 2:
            return "the kernel has one tap; scheme 'channel' does the same with two convolutions"
        return None

    def variants(self, geometry: ConvGeometry) -> tuple[str, ...]:
        return ("",)

    def full_rank(self, geometry: ConvGeometry, variant: str) -> Size:
        return (depthwise.full_rank(geometry),)

    def chain(self, geometry: ConvGeometry, variant: str, ranks: Size) -> tuple[ConvGeometry, ...]:
        return depthwise.depthwise_chain(geometry, ranks[0])

    def factorize(
        self, layer: ConvLayer, variant: str, statistics: LayerStatistics | None = None, *,
        max_ranks: Size | None = None, options: FitOptions | None = None,
        second_pass: SecondPass | None = None,
    ) -> Factorization:  # fmt: skip
        _checked(self, layer, variant)
        (full,) = self.full_rank(layer.geometry, variant)
        rank = min(full, max_ranks[0]) if max_ranks else full
        return depthwise.fit_terms(self.name, layer, rank, statistics, options or FitOptions(), second_pass)


_schemes: dict[str, Scheme] = {}
SCHEMES: Mapping[str, Scheme] = MappingProxyType(_schemes)
"""Every registered scheme by name; command line choices and tests read this table."""


def _key(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")


def register(scheme: Scheme) -> None:
    """Add a scheme; it need not know groups, of a grouped layer it gets each group.

    Raises:
        OptionError: a scheme of that name is registered already.
    """
    key = _key(scheme.name)
    if key in _schemes:
        raise OptionError(f"scheme '{scheme.name}' is registered already; give the new one another name")
    _schemes[key] = OverGroups(scheme, energy)


def scheme(name: str) -> Scheme:
    """Return the scheme of that name; case, spaces around it, '-' and '_' do not matter.

    Raises:
        OptionError: no such scheme.
    """
    found = _schemes.get(_key(name))
    if found is None:
        raise OptionError(f"there is no scheme '{name}'; known are {', '.join(_schemes)}")
    return found


register(Spatial("spatial", "kH x 1 then 1 x kW (or the other way round)"))
register(Channel("channel", "kH x kW with fewer outputs, then 1 x 1"))
register(Input("input", "1 x 1, then kH x kW with fewer inputs"))
register(Tucker2("tucker2", "1 x 1, kH x kW with fewer inputs and outputs, 1 x 1"))
register(Depthwise("depthwise", "1 x 1, kH x kW channel by channel, 1 x 1"))
