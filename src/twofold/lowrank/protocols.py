"""What passes between the schemes and those who use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import ClassVar, Protocol

from twofold.conv import Array, ConvGeometry, Factors, FactorStatistics, Size
from twofold.lowrank.assemble import checked_ranks
from twofold.lowrank.problem import Problem

#: An operation of a factorization in float64 takes as long as so many of a product in float32.
_FACTORIZING = 8.0


class RankErrors(Protocol):
    """What a plan reads of a factorization: the error at every rank.

    Two errors, one word for each: the *energy error* is the lost fraction of the energy (squared norm) of the
    weight, or, where statistics were given, of the output's variance on the inputs they describe; the
    *relative error* is its square root. Both are predictions for exactly the convolutions that
    `Factorization.factors` returns at these ranks (before rounding to their dtype; with `refine` an upper
    bound); where ranks are not nested, once `factors` was asked for them, and estimates before.
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
        """Lost fraction of the energy at `ranks`, between 0 and 1."""


@dataclass(frozen=True)
class KnownErrors:
    """Energy errors by ranks, where every rank is a fit of its own, as far as something is known of them.

    Attributes:
        expected: what fits are expected to lose at ranks that a quick fit was made of.
        fitted: what is lost at ranks that were fitted.
    """

    expected: Mapping[Size, float] = field(default_factory=dict)
    fitted: Mapping[Size, float] = field(default_factory=dict)

    def __contains__(self, ranks: object) -> bool:
        """Whether there is more than an estimate from other ranks."""
        return ranks in self.expected or ranks in self.fitted

    def errors(self) -> dict[Size, float]:
        """What a plan reads; where fits lost more than was expected of them, all others are expected to."""
        worse = [error / self.expected[one] for one, error in self.fitted.items() if self.expected.get(one)]
        ratio = max([1.0, *worse])
        return {one: min(ratio * error, 1.0) for one, error in self.expected.items()} | dict(self.fitted)


@dataclass(frozen=True, eq=False)
class Factorization:
    """The decompositions of one layer by one scheme, readable at every rank; see `RankErrors`.

    Attributes:
        scheme: registered name of the scheme.
        variant: which of its variants.
        layer: the layer's name.
        max_ranks: largest ranks that can be read.
        errors: gives the energy errors of all ranks, as far as they are known.
        build: makes the stack of convolutions at some ranks.
        quick: makes the energy error and the stack of a quick fit, by which the effect of such errors can be
            measured; None where `build` is as quick.
        tried: ranks of a few quick fits, of which the errors at all others are estimated; None where they are
            known without.
        ridge: multiple of the mean input variance that was added to the covariance; 0 without statistics.
        singular_values: see `RankErrors`.
        origin: a hash of all that it was fitted to, where whoever made it knows one; "" else.
        known: gives what is known so far, where every rank is a fit of its own; None where one fit has all
            ranks.
    """

    scheme: str
    variant: str
    layer: str
    max_ranks: Size
    errors: Callable[[], Array]
    build: Callable[[Size], Factors]
    quick: Callable[[Size], tuple[float, Factors]] | None = None
    tried: tuple[Size, ...] | None = None
    ridge: float = 0.0
    singular_values: Array | None = None
    origin: str = ""
    known: Callable[[], KnownErrors] | None = None

    def energy_errors(self) -> Array:
        return self.errors()

    def energy_error(self, ranks: Size) -> float:
        return float(self.errors()[self._checked(ranks)])

    def relative_error(self, ranks: Size) -> float:
        """Square root of `energy_error`."""
        return sqrt(self.energy_error(ranks))

    def factors(self, ranks: Size) -> Factors:
        """The stack of convolutions at `ranks`, in the layer's dtype (at least float32), bias on the last.

        Of a layer that is stored in half precision they are rounded to it, see `measure.as_stored`.

        Raises:
            OptionError: ranks outside 1..max_ranks.
        """
        return self.build(self._checked(ranks))

    def trial(self, ranks: Size) -> tuple[float, Factors]:
        """Energy error and stack of a quick fit, without alternations."""
        if self.quick is None:
            return self.energy_error(ranks), self.factors(ranks)
        return self.quick(self._checked(ranks))

    def trial_ranks(self) -> tuple[Size, ...] | None:
        return self.tried

    def knows(self, ranks: Size) -> bool:
        """Whether the error at `ranks` is more than an estimate from other ranks."""
        known = KnownErrors() if self.known is None else self.known()
        # Nothing is known where nothing can be lost.
        return known == KnownErrors() or ranks in known

    def then(self, change: Callable[[Factors], Factors]) -> Factorization:
        """The same with every stack changed."""
        build, trial = self.build, self.trial

        def quick(ranks: Size) -> tuple[float, Factors]:
            error, found = trial(ranks)
            return error, change(found)

        return replace(self, build=lambda ranks: change(build(ranks)), quick=quick, singular_values=None)

    def _checked(self, ranks: Size) -> Size:
        return checked_ranks(self.layer, ranks, self.max_ranks)


@dataclass(frozen=True, eq=False)
class Begun:
    """A fit that must see the data once more, behind its first factor.

    Attributes:
        pair: two convolutions, the first of which is what is to be looked behind.
        finish: takes what was seen; gives the factorization.
    """

    pair: Factors
    finish: Callable[[FactorStatistics], Factorization]


@dataclass(frozen=True)
class Scheme:
    """A kind of stack that can replace a convolution; for layers with one group, see `schemes.register`.

    What depends on a layer's shape alone is cheap and needs no weights; `fit` does the costly work once.

    Attributes:
        name: key in the registry; lower case.
        summary: one line for users: which convolutions come out.
        nested: whether one factorization has all ranks at once; else every rank is a fit of its own. Fits of
            such a scheme are cached where they tell what is `known`, from which `error_curve` reads the rest.
        outputs_suffice: whether the covariance of a layer's outputs, which another pass over the inputs
            gathers, is enough for a fit, where not even the covariance along one axis fits into memory.
    """

    name: str
    summary: str
    nested: ClassVar[bool] = True
    outputs_suffice: ClassVar[bool] = False

    def rejection(self, geometry: ConvGeometry) -> str | None:
        """Why the scheme does not apply to a layer, in words for users; None where it does."""
        return None

    def variants(self, geometry: ConvGeometry) -> tuple[str, ...]:
        """Names of the ways to apply it; ("",) where there is only one."""
        return ("",)

    def full_rank(self, geometry: ConvGeometry, variant: str) -> Size:
        """Ranks at which the layer is reproduced exactly."""
        raise NotImplementedError

    def chain(self, geometry: ConvGeometry, variant: str, ranks: Size) -> tuple[ConvGeometry, ...]:
        """Geometries of the stack at `ranks`."""
        raise NotImplementedError

    def fit(self, problem: Problem, variant: str, ranks: Size) -> Factorization | Begun:
        """Decompose a layer once, for every rank up to `ranks`.

        Args:
            problem: the layer, which is not rejected, and what its inputs look like.
            variant: one of `variants(problem.layer.geometry)`.
            ranks: largest ranks that will be read; no larger than full rank. Fewer may cost less.

        Raises:
            ModelError: weights are missing or not finite, or statistics do not fit the layer.
        """
        raise NotImplementedError

    def work(self, geometry: ConvGeometry, variant: str, refine: int) -> tuple[float, float]:
        """Operations of a data-aware fit, and of a stack of a third of the parameters, about.

        Operations are those of products in float32; others are counted as those that take the same time.

        Args:
            geometry: of the layer.
            variant: one of its variants.
            refine: see `FitOptions`.
        """
        patch = geometry.params / geometry.c_out
        full, side = max(self.full_rank(geometry, variant)), patch / max(geometry.kernel)
        fit = 2 * patch**2 * min(full, geometry.c_out) + 10.0 * (side**3 + full**3)
        return _FACTORIZING * fit, _FACTORIZING * 8.0 * patch**2 * geometry.c_out

    def error_curve(self, geometry: ConvGeometry, limits: Size, known: Mapping[Size, float]) -> Array:
        """Energy errors at all ranks as those at some ranks predict them, where ranks are not nested.

        Args:
            geometry: of the layer.
            limits: largest ranks.
            known: energy errors of what was fitted, by ranks; they are in the result as they are.

        Returns:
            (max_rank + 1, ...), see `RankErrors.energy_errors`.
        """
        raise NotImplementedError
