"""Factorizations whose stacks are read from the cache, and fitted only where they are not in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial

from ..calibration.inputs import Inputs
from ..conv import Array, ConvLayer, Factors, Size
from ..errors import FormatError
from ..lowrank import Factorization, FitOptions, LayerFit, scheme
from ..lowrank.protocols import KnownErrors
from ..planning import Request
from ..progress import track
from .cache import RunCache, layer_type_digest, samples_digest, scheme_digest
from .stored import StoredFit, fits_entry, fits_of, stack_entry, stack_of


@dataclass(frozen=True, eq=False)
class RecalledFits:
    """The fits of a layer, as far as the cache has them.

    Attributes:
        layer: the layer.
        requests: what is fitted.
        cache: results of runs.
        key: of the fits; "" where they are not cached.
    """

    layer: ConvLayer
    requests: Sequence[Request]
    cache: RunCache = field(default_factory=RunCache)
    key: str = ""

    @classmethod
    def of(
        cls, layer: ConvLayer, requests: Sequence[Request], options: FitOptions,
        statistics: Mapping[str, str], held_out: Inputs | None, cache: RunCache,
    ) -> RecalledFits:  # fmt: skip
        """Look them up.

        Args:
            layer: the layer.
            requests: what is wanted of it.
            options: of the fits.
            statistics: keys of the layers' statistics, by name.
            held_out: samples that no fit has seen, where there are any.
            cache: results of runs.
        """
        key = cache.key(
            "fits", layer.name, layer_type_digest(layer.geometry), statistics.get(layer.name), list(requests),
            [scheme_digest(one.scheme) for one in requests], options,
            None if held_out is None else samples_digest(held_out),
        )  # fmt: skip
        return cls(layer, requests, cache, key)

    @cached_property
    def stored(self) -> tuple[float, Sequence[StoredFit]] | None:
        """The covariance's shrinkage and the fits; None where they have to be made."""
        entry = self.cache.get("fits", self.key) if self.key else None
        if entry is not None:
            with suppress(FormatError):
                return fits_of(entry, self.requests)
        return None

    def keep(self, shrinkage: float, fits: Sequence[Factorization]) -> list[Factorization]:
        """Store fits that were made; gives them with stacks that are stored when they are made.

        Errors that depend on what was fitted before, and do not tell how, cannot be stored.
        """
        if not self.key or any(one.known is None and not scheme(one.scheme).nested for one in fits):
            return list(fits)
        stored = [StoredFit.of(one) for one in fits]
        entry = fits_entry(shrinkage, stored)
        self.cache.put("fits", self.key, entry.header, entry.arrays)
        return [self._one(one, partial(_given, found)) for one, found in zip(stored, fits, strict=True)]

    def recalled(self, again: Callable[[], LayerFit]) -> list[Factorization]:
        """The fits that are stored.

        Args:
            again: gives the layer ready to be fitted, for stacks that are not stored.
        """
        assert self.stored is not None, "Bug: no fits are stored"
        fitted = _Once(again)
        requests = {(one.scheme, one.variant): one for one in self.requests}
        return [
            self._one(one, partial(_fit, fitted, requests[one.scheme, one.variant])) for one in self.stored[1]
        ]

    def _one(self, fit: StoredFit, make: Callable[[], Factorization]) -> Factorization:
        stacks = _Stacks(self, fit, make)
        return Factorization(
            fit.scheme, fit.variant, self.layer.name, fit.max_ranks, stacks.errors, stacks.build,
            stacks.quick, fit.tried, fit.ridge, fit.singular_values, self.key,
            None if fit.known is None else lambda: stacks.known,
        )  # fmt: skip


def share_stacks(cache: RunCache, wanted: Sequence[tuple[Factorization, Size]], *, final: bool) -> None:
    """Have stacks made where there are several processes, each by the one that has its layer's fits.

    Args:
        cache: results of runs.
        wanted: fits, as `RecalledFits` gives them, and ranks.
        final: whether they are made as for a plan; else as for trials.
    """
    use = "final" if final else "trial"
    keys: dict[str, tuple[str, ...]] = {}
    for one, ranks in wanted:
        if one.origin:  # what cannot be stored is made by every process
            keys[one.layer] = (*keys.get(one.layer, ()), _stack_key(cache, use, one.origin, one, ranks))

    def make(layers: Sequence[str]) -> None:
        for one, ranks in track([pair for pair in wanted if pair[0].layer in layers], "computing factors"):
            one.factors(ranks) if final else one.trial(ranks)

    cache.share("factors", keys, make)


def _stack_key(cache: RunCache, use: str, origin: str, fit: Factorization | StoredFit, ranks: Size) -> str:
    return cache.key(use, origin, fit.scheme, fit.variant, ranks)


@dataclass(frozen=True, eq=False)
class _Once:
    """The layer ready to be fitted, made when a fit asks first, for all of its fits."""

    again: Callable[[], LayerFit]

    @cached_property
    def fitted(self) -> LayerFit:
        return self.again()


@dataclass(frozen=True, eq=False)
class _Stacks:
    """The stacks of one factorization."""

    of: RecalledFits
    fit: StoredFit
    make: Callable[[], Factorization]

    @cached_property
    def _made(self) -> Factorization:
        return self.make()

    @cached_property
    def _expected(self) -> dict[Size, float]:
        """What is stored, and what was read or made since; of ranks that were not fitted yet."""
        return dict(self.fit.known or {})

    @cached_property
    def _fitted(self) -> dict[Size, float]:
        return {}

    @property
    def known(self) -> KnownErrors:
        """See `Factorization`."""
        return KnownErrors(self._expected, self._fitted)

    def errors(self) -> Array:
        """See `Factorization`."""
        if self.fit.errors is not None:
            return self.fit.errors
        return scheme(self.fit.scheme).error_curve(
            self.of.layer.geometry, self.fit.max_ranks, self.known.errors()
        )

    def build(self, ranks: Size) -> Factors:
        """See `Factorization`."""
        return self._recall("final", ranks, lambda: self._final(ranks))[1]

    def quick(self, ranks: Size) -> tuple[float, Factors]:
        """See `Factorization`."""
        return self._recall("trial", ranks, lambda: self._made.trial(ranks))

    def _final(self, ranks: Size) -> tuple[float, Factors]:
        stack = self._made.factors(ranks)
        return self._now_known("final", ranks) or 0.0, stack

    def _now_known(self, use: str, ranks: Size) -> float | None:
        """The error that the fits know at some ranks, or expect there."""
        known = KnownErrors() if self._made.known is None else self._made.known()
        return (known.fitted if use == "final" else known.expected).get(ranks)

    def _recall(
        self, use: str, ranks: Size, make: Callable[[], tuple[float, Factors]]
    ) -> tuple[float, Factors]:
        cache, fit = self.of.cache, self.fit
        key = _stack_key(cache, use, self.of.key, fit, ranks)
        entry = cache.get("factors", key)
        if entry is not None:
            with suppress(FormatError):
                energy, expected, stack = stack_of(entry, self.of.layer, fit.scheme, fit.variant, ranks)
                self._learn(use, ranks, expected)
                return energy, stack
        energy, stack = make()
        expected = self._now_known(use, ranks)
        entry = stack_entry(stack, energy, expected)
        cache.put("factors", key, entry.header, entry.arrays)
        self._learn(use, ranks, expected)
        return energy, stack

    def _learn(self, use: str, ranks: Size, expected: float | None) -> None:
        if expected is not None:
            (self._fitted if use == "final" else self._expected)[ranks] = expected


def _given(found: Factorization) -> Factorization:
    return found


def _fit(fitted: _Once, request: Request) -> Factorization:
    return fitted.fitted.factorize(request.scheme, request.variant, request.max_ranks)
