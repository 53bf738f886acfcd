"""What a run learned, for the next one: the cache of results as a decomposition uses it.

Every result is kept under a hash of all that it depends on, so that nothing is ever out of date: the model as
it is in memory, the inputs' values, the options that matter, twofold's own code and the versions of what it
computes with. Results are stored when they are made: a run that is killed goes on from the last of them.
Reading gives the same bytes as computing.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
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
    """

    cache: Cache | None = None
    base: str = ""
    read: Counter[str] = field(default_factory=Counter)
    _written: set[str] = field(default_factory=set)

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
        outputs = runner.run(next(iter(sample)))
        key = digest_of(base, sample.digest())
        known = cache.get("sample", key)
        if known is None:
            arrays = {str(i): outputs[name] for i, name in enumerate(sorted(outputs))}
            cache.put("sample", key, Entry({"names": sorted(outputs)}, arrays))
        elif not _alike(known, outputs):
            base = digest_of(base, *(array_digest(outputs[name]) for name in sorted(outputs)))
        return cls(cache, base)

    def key(self, *parts: Any) -> str:
        """The key of a result: a hash of plain values, on top of what is common to all."""
        return digest_of(self.base, *parts)

    def get(self, piece: str, key: str) -> Entry | None:
        """A result; None where it is not there."""
        found = None if self.cache is None else self.cache.get(piece, key)
        self.read[piece] += found is not None and key not in self._written
        return found

    def has(self, piece: str, key: str) -> bool:
        """Whether a result is there."""
        return self.cache is not None and self.cache.has(piece, key)

    def put(
        self, piece: str, key: str, header: Mapping[str, Any], arrays: Mapping[str, Any] | None = None
    ) -> None:
        """Keep a result."""
        if self.cache is not None:
            self._written.add(key)
            self.cache.put(piece, key, Entry(header, arrays or {}))

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
