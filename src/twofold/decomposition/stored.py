"""Fits, stacks and what a correction collects as entries of the cache, and back: all arrays equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..codec import from_plain, to_plain
from ..conv import Array, ConvLayer, FactorConv, Factors, FactorStatistics, Size
from ..errors import FormatError
from ..files.cache import Entry
from ..lowrank import Factorization, scheme
from ..planning import Request


@dataclass(frozen=True, eq=False)
class StoredFit:
    """A factorization as plans read it, without what makes stacks.

    Attributes: see `lowrank.protocols.Factorization`; `errors` is None where those that are `known` predict
        the others.
    """

    scheme: str
    variant: str
    max_ranks: Size
    ridge: float
    errors: Array | None
    singular_values: Array | None
    known: Mapping[Size, float] | None = None
    tried: tuple[Size, ...] | None = None

    @classmethod
    def of(cls, found: Factorization) -> StoredFit:
        """Read one."""
        errors = found.energy_errors()
        known = None if found.known is None else found.known().errors()
        return cls(
            found.scheme, found.variant, found.max_ranks, found.ridge, errors if known is None else None,
            found.singular_values, known, found.trial_ranks(),
        )  # fmt: skip


@dataclass(frozen=True)
class _Fit:
    scheme: str
    variant: str
    max_ranks: tuple[int, ...]
    ridge: float
    known: tuple[tuple[tuple[int, ...], float], ...] | None
    tried: tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True)
class _Fits:
    shrinkage: float
    fits: tuple[_Fit, ...]


def fits_entry(shrinkage: float, fits: Sequence[StoredFit]) -> Entry:
    """The fits of a layer, and its covariance's shrinkage."""
    header = _Fits(
        shrinkage,
        tuple(
            _Fit(
                one.scheme, one.variant, one.max_ranks, one.ridge,
                None if one.known is None else tuple(one.known.items()), one.tried,
            )
            for one in fits
        ),
    )  # fmt: skip
    arrays = {f"errors{i}": e for i, one in enumerate(fits) if (e := one.errors) is not None}
    arrays |= {f"values{i}": v for i, one in enumerate(fits) if (v := one.singular_values) is not None}
    return Entry(to_plain(header), arrays)


def fits_of(entry: Entry, requests: Sequence[Request]) -> tuple[float, list[StoredFit]]:
    """What `fits_entry` was given: of all requests, or of those that fitted into memory.

    Raises:
        FormatError: it is something else.
    """
    header = from_plain(_Fits, entry.header, "fits")
    fits, wanted = [], [(request.scheme, request.variant) for request in requests]
    for i, one in enumerate(header.fits):
        if (one.scheme, one.variant) not in wanted:
            raise FormatError(f"fits: {one} was not asked for")
        known = None if one.known is None else dict(one.known)
        errors = _array(entry, f"errors{i}") if known is None else None
        if errors is not None and errors.shape != tuple(rank + 1 for rank in one.max_ranks):
            raise FormatError(f"fits: {one} has errors of the shape {errors.shape}")
        values = entry.arrays.get(f"values{i}")
        fits.append(
            StoredFit(one.scheme, one.variant, one.max_ranks, one.ridge, errors, values, known, one.tried)
        )
    if not fits:
        raise FormatError("there are no fits")
    return header.shrinkage, fits


def stack_entry(stack: Factors, energy: float, expected: float | None = None) -> Entry:
    """A stack, its energy error, and what a plan is to expect at its ranks, where fits differ by rank."""
    arrays = {f"weight{i}": conv.weight for i, conv in enumerate(stack.convs)}
    arrays |= {f"bias{i}": b for i, conv in enumerate(stack.convs) if (b := conv.bias) is not None}
    return Entry({"energy": energy, "expected": expected}, arrays)


def stack_of(
    entry: Entry, layer: ConvLayer, name: str, variant: str, ranks: Size
) -> tuple[float, float | None, Factors]:
    """What `stack_entry` was given: the energy error, what a plan expects, and the stack.

    Args:
        entry: the entry.
        layer: what the stack stands for.
        name: of its scheme.
        variant: which of the scheme's.
        ranks: its ranks.

    Raises:
        FormatError: it is something else.
    """
    energy, expected = (entry.header.get(name) for name in ("energy", "expected"))
    convs = []
    for i, geometry in enumerate(scheme(name).chain(layer.geometry, variant, ranks)):
        weight = _array(entry, f"weight{i}")
        if weight.shape != geometry.weight_shape:
            raise FormatError(f"a stack of {layer.name}: its weight {i} has the shape {weight.shape}")
        convs.append(FactorConv(geometry, weight, entry.arrays.get(f"bias{i}")))
    if not isinstance(energy, float) or not isinstance(expected, float | None):
        raise FormatError(f"a stack of {layer.name}: its energy errors are {energy!r} and {expected!r}")
    return energy, expected, Factors(name, ranks, tuple(convs))


def remainders_entry(seen: Mapping[str, FactorStatistics]) -> Entry:
    """What a correction collected, by layer."""
    names = [one.name for one in fields(FactorStatistics)[1:]]
    arrays = {f"{i} {name}": getattr(s, name) for i, s in enumerate(seen.values()) for name in names}
    return Entry({"layers": list(seen), "counts": [one.count for one in seen.values()]}, arrays)


def remainders_of(entry: Entry) -> dict[str, FactorStatistics]:
    """What `remainders_entry` was given.

    Raises:
        FormatError: it is something else.
    """
    names = [one.name for one in fields(FactorStatistics)[1:]]
    layers, counts = entry.header.get("layers"), entry.header.get("counts")
    if not isinstance(layers, list) or not isinstance(counts, list) or len(layers) != len(counts):
        raise FormatError("remainders: their header is none")
    return {
        str(layer): FactorStatistics(int(count), *(_array(entry, f"{i} {name}") for name in names))
        for i, (layer, count) in enumerate(zip(layers, counts, strict=True))
    }


def _array(entry: Entry, name: str) -> Any:
    array = entry.arrays.get(name)
    if array is None or array.dtype.kind != "f":
        raise FormatError(f"its {name} is {'missing' if array is None else array.dtype}")
    return array
