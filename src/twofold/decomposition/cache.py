"""What a run learned, for the next one: the cache of results as a decomposition uses it.

Every result is kept under a hash of all that it depends on, so that nothing is ever out of date: the model as
it is in memory, the inputs' values, the options that matter, twofold's own code and the versions of what it
computes with. Results are stored when they are made: a run that is killed goes on from the last of them.
Reading gives the same bytes as computing.

Several processes (see `ranks`) share results the same way: each result is made by one, or read by the first,
and given to all. Each keeps what it makes at once, the first also what it is given, and keys are those of one
process: a run that was killed goes on with any number of them.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Any

import numpy as np

from ..calibration.gather import CalibrationOptions
from ..calibration.inputs import Inputs
from ..calibration.memory import parse_bytes
from ..calibration.runner import Outputs, Runner, Stacks
from ..conv import ConvGeometry
from ..errors import OptionError, TwofoldError, option
from ..files.cache import LIMIT, Cache, Entry, cache_folder
from ..fingerprint import Description, digest_of, is_versioned, package_digest
from ..lowrank import SCHEMES
from ..progress import note
from ..ranks import Ranks, here

#: Bytes that the folder may take, such as 2G.
SIZE_VARIABLE = "TWOFOLD_CACHE_SIZE"
#: Kinds of results in words, for one and for several.
PIECES = {
    "statistics": "input statistics of {} layer(s)",
    "fits": "fits of {} layer(s)",
    "factors": "{} stack(s) of factors",
    "effects": "measured effects of single layers",
    "error": "{} error(s) of the outputs",
    "remainders": "what {} correction(s) collected",
    "sample": "",
}
#: What outputs of the same network may differ by, as a share of their largest value: between two processors.
_ALIKE = 1e-3


def standard_cache() -> Cache | None:
    """The cache where the user has it; None where it is switched off.

    Raises:
        OptionError: its size is no number of bytes.
    """
    folder = cache_folder()
    size = os.environ.get(SIZE_VARIABLE)
    try:
        limit = parse_bytes(size) if size else LIMIT
    except OptionError as error:
        raise OptionError(f"${SIZE_VARIABLE}: {error}") from error
    return None if folder is None else Cache(folder, limit)


@dataclass(frozen=True, eq=False)
class RunCache:
    """Results of runs on one model under some options.

    Attributes:
        cache: where they are; None for nowhere, where all is missing.
        base: hash of the model, of how it is looked at, and of twofold.
        read: how many results of each kind earlier runs have left and this one read.
        ranks: the processes of the run.
        owners: which of them makes the results of a layer.
    """

    cache: Cache | None = None
    base: str = ""
    read: Counter[str] = field(default_factory=Counter)
    ranks: Ranks = field(default_factory=here)
    owners: dict[str, int] = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)
    _made: dict[tuple[str, str], Entry | None] = field(default_factory=dict)
    _given: dict[tuple[str, str], Entry] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(
        cls, cache: Cache | None, model: Any, runner: Runner, inputs: Inputs, options: CalibrationOptions
    ) -> RunCache:
        """The results for a model; none where nothing tells it from others.

        Args:
            cache: where results are.
            model: gives its hash by `fingerprint()`; models of formats without are not cached.
            runner: runs the model.
            inputs: samples; the first is run, since a hash of code does not see all that code does.
            options: how the model is looked at.
        """
        if cache is None or not hasattr(model, "fingerprint"):
            return cls()
        try:
            base = digest_of(
                package_digest(), model.fingerprint(), list(runner.outputs), runner.runtime,
                options.positions, options.gradients, options.batch_statistics, options.seed,
            )  # fmt: skip
        except (TwofoldError, ValueError, TypeError, RecursionError):
            return cls()
        sample = inputs.take(slice(0, 1))
        key = digest_of(base, sample.digest())

        def settled() -> str:
            outputs = runner.run(next(iter(sample)))
            known = cache.get("sample", key)
            if known is None:
                arrays = {str(i): outputs[name] for i, name in enumerate(sorted(outputs))}
                cache.put("sample", key, Entry({"names": sorted(outputs)}, arrays))
            elif not _alike(known, outputs):
                return digest_of(base, *(array_digest(outputs[name]) for name in sorted(outputs)))
            return base

        return cls(cache, here().from_first("the cache's base", settled))

    def key(self, *parts: Any) -> str:
        """The key of a result: a hash of plain values, on top of what is common to all."""
        return digest_of(self.base, *parts)

    def spread(self, costs: Mapping[str, float]) -> None:
        """Settle which process makes the results of which layer.

        Args:
            costs: of the layers, by name.
        """
        self.owners.update(self.ranks.split(costs))

    def owns(self, layer: str) -> bool:
        """Whether this process makes the results of a layer."""
        return self.owners.get(layer, 0) == self.ranks.rank

    def get(self, piece: str, key: str) -> Entry | None:
        """A result; None where it is not there."""
        given = self._given.get((piece, key))
        if given is not None:
            return given
        found = None if self.cache is None else self.cache.get(piece, key)
        with self._lock:  # layers are fitted in threads, and what is counted is told
            self.read[piece] += found is not None and key not in self._written
        return found

    def has(self, piece: str, key: str) -> bool:
        """Whether a result is there."""
        return self.cache is not None and self.cache.has(piece, key)

    def put(
        self, piece: str, key: str, header: Mapping[str, Any], arrays: Mapping[str, Any] | None = None
    ) -> None:
        """Keep a result."""
        entry = Entry(header, arrays or {})
        if (piece, key) in self._made:
            self._made[piece, key] = entry
        if self.cache is not None:
            self._written.add(key)
            self.cache.put(piece, key, entry)

    def from_first(self, piece: str, key: str) -> Entry | None:
        """A result as the first process has it."""
        return self.ranks.from_first(piece, lambda: self.get(piece, key))

    def put_by_first(
        self, piece: str, key: str, header: Mapping[str, Any], arrays: Mapping[str, Any] | None = None
    ) -> None:
        """Keep a result that all processes have."""
        if self.ranks.first:
            self.put(piece, key, header, arrays)

    def share(
        self, piece: str, keys: Mapping[str, tuple[str, ...]], make: Callable[[Sequence[str]], None]
    ) -> None:
        """Have results made, each by the process that owns its layer, and given to all.

        What was shared before of this kind, and is not asked for again, is let go. One process alone has
        nothing to share: it makes results when it needs them.

        Args:
            piece: what kind of results.
            keys: of the results, by layer.
            make: makes those of the layers that it is given, as far as they are missing, and puts them here.
        """
        if not self.ranks.several:
            return
        wanted = {(piece, key): layer for layer, of_layer in keys.items() for key in of_layer}
        for old in [one for one in self._given if one[0] == piece and one not in wanted]:
            del self._given[old]
        missing = [one for one in wanted if one not in self._given]
        self._given.update(self.ranks.from_first(f"known {piece}", lambda: self._known(missing)))
        missing = [one for one in missing if one not in self._given]
        own = [one for one in missing if self.owns(wanted[one])]

        def made() -> dict[tuple[str, str], Entry | None]:
            self._made.update(dict.fromkeys(own))
            try:
                make(list(dict.fromkeys(wanted[one] for one in own)))
                return {one: self._made[one] or self.get(*one) for one in own}
            finally:
                self._made.clear()

        for part in self.ranks.collect(f"made {piece}", made):
            for one, entry in part.items():
                if entry is not None:
                    self._given[one] = entry
                    if self.ranks.first and self.cache is not None and not self.cache.has(*one):
                        self.cache.put(*one, entry)  # of a machine with a cache of its own

    def _known(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Entry]:
        return {one: entry for one in wanted if (entry := self.get(*one)) is not None}

    def number(self, piece: str, key: str) -> float | None:
        """A number that was kept by `put_number`."""
        found = self.get(piece, key)
        value = None if found is None else found.header.get("value")
        return value if isinstance(value, float) else None

    def tell(self) -> None:
        """Say what was read, on the command line."""
        parts = [PIECES[piece].format(count) for piece, count in self.read.items() if count and PIECES[piece]]
        if parts and self.cache is not None:
            off = option("cache=False", "--no-cache")
            note(f"read from the cache, {self.cache.folder}: {', '.join(parts)}; {off} computes all again")


def scheme_digest(name: str) -> str:
    """A hash of a scheme's code where it is not twofold's own."""
    scheme = SCHEMES[name]
    inner: Any = type(getattr(scheme, "inner", scheme))
    return _code_digest(inner)


def layer_type_digest(geometry: ConvGeometry) -> str:
    """A hash of a layer's shape, and of the code of its layer type where that is not twofold's own."""
    return digest_of(geometry, _code_digest(type(geometry.semantics)))


@cache
def _code_digest(kind: Any) -> str:
    return "" if is_versioned(kind) else digest_of(Description(lambda value: None).of(kind))


def stacks_digest(stacks: Stacks) -> str:
    """A hash of the layers that are replaced and of what stands in their place."""
    parts = [
        (layer.name, stack.scheme, list(stack.ranks), [array_digest(conv.weight) for conv in stack.convs],
         [None if conv.bias is None else array_digest(conv.bias) for conv in stack.convs])
        for layer, stack in stacks
    ]  # fmt: skip
    return digest_of(parts)


def samples_digest(inputs: Inputs) -> list[Any]:
    """What of some samples results depend on: their values, and how they are put into batches."""
    return [inputs.digest(), inputs.batch]


def array_digest(array: Any) -> str:
    """A hash of the type, the shape and the values of an array."""
    return hashlib.sha256(
        f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()


def _alike(known: Entry, outputs: Outputs) -> bool:
    """Whether outputs are those that were kept."""
    if known.header.get("names") != sorted(outputs):
        return False
    for i, name in enumerate(sorted(outputs)):
        before, array = known.arrays.get(str(i)), outputs[name]
        if before is None or before.shape != array.shape or before.dtype != array.dtype:
            return False
        largest = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
        if not np.allclose(before, array, rtol=0, atol=_ALIKE * largest, equal_nan=True):
            return False
    return True
