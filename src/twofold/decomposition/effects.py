"""What was measured of single layers' effects on the outputs, kept while it is measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..calibration.inputs import Inputs
from ..calibration.measure import Measure, OutputErrorMetric
from ..calibration.runner import Outputs
from ..codec import from_plain, to_plain
from ..conv import Size
from ..errors import FormatError
from ..files.cache import Entry
from ..lowrank import Factorization
from ..planning.objective import Curve
from .cache import RunCache, samples_digest

#: Factorizations of a layer, each with ranks that are tried.
Tries = Sequence[tuple[Factorization, Size]]
#: Seconds from one writing to the next: a kill loses no more than these and one layer.
PAUSE = 2.0


@dataclass(frozen=True)
class _Header:
    """What an entry says of its sums.

    Attributes:
        done: how many layers were tried, over all batches.
        energies: predicted energy error of every stack, by layer.
        rows: layer, index of the stack, and output of each row of the sums.
    """

    done: int
    energies: Mapping[str, tuple[float, ...]]
    rows: tuple[tuple[str, int, str], ...]


@dataclass(eq=False)
class Effects:
    """Errors of the outputs with one stack in the network, as far as they are measured.

    Attributes:
        measure: collects them.
        cache: where they are kept; only the relative error can be.
        key: under which.
        counts: how many stacks are tried of each layer.
        done: how many layers were tried to the end, over all batches.
        energies: predicted energy errors of the stacks, by layer.
    """

    measure: Measure
    cache: RunCache
    key: str
    counts: Mapping[str, int]
    done: int = 0
    energies: dict[str, list[float]] = field(default_factory=dict)
    _state: Entry | None = None
    _written: float = 0.0
    _tried: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, cache: RunCache, tries: Mapping[str, Tries], inputs: Inputs, measure: Measure) -> Effects:
        """What is known of them from earlier runs.

        Args:
            cache: results of earlier runs.
            tries: what is tried, by layer.
            inputs: samples that it is tried on.
            measure: without content.
        """
        counts = {name: len(of_layer) for name, of_layer in tries.items()}
        known = all(one.origin for of_layer in tries.values() for one, _ in of_layer)
        if not known or not isinstance(measure, OutputErrorMetric):
            return cls(measure, RunCache(), "", counts)
        tried = {
            name: [(one.origin, one.scheme, one.variant, ranks) for one, ranks in of_layer]
            for name, of_layer in tries.items()
        }
        key = cache.key("effects", samples_digest(inputs), list(tries), tried)
        found = cls(measure, cache, key, counts)
        entry = cache.from_first("effects", key)
        if entry is not None:
            with suppress(FormatError):
                found._restore(entry)
        return found

    def add(self, name: str, index: int, reference: Outputs, changed: Outputs) -> None:
        """Take in one batch of the outputs with a stack in the network."""
        self.measure.add((name, index), reference, changed)
        self._tried.add(name)
        if index == self.counts[name] - 1 and not self.cache.ranks.several:
            self.done += 1
            self._keep()

    def meet(self, done: int) -> None:
        """Behind a batch the first of several processes keeps what all have measured.

        Args:
            done: how many layers were tried by now.
        """
        ranks = self.cache.ranks
        if not ranks.several:
            return
        self.done = done
        if isinstance(self.measure, OutputErrorMetric):
            sums: dict[Any, Any] = self.measure.sums()
            own = {key: one for key, one in sums.items() if key[0][0] in self._tried}
            for rank, part in enumerate(ranks.gather("effects", own)):
                if ranks.first and rank:
                    self.measure.restore(part)
        if ranks.first:
            self._keep()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What is measured within the context is kept, however it ends."""
        self._written = time.monotonic()
        try:
            yield
        finally:
            self._write()

    def curves(self, owners: Mapping[str, int]) -> dict[str, Curve]:
        """Squared errors of the outputs by the energy errors of each layer's stacks.

        Args:
            owners: which process has tried a layer; one that is not in it is known to all.
        """
        ranks = self.cache.ranks
        own = [name for name in self.counts if owners.get(name, ranks.rank) == ranks.rank]
        parts = ranks.collect("curves", lambda: {name: self._curve(name) for name in own})
        every = {name: curve for part in parts for name, curve in part.items()}
        return {name: every[name] for name in self.counts}

    def _curve(self, name: str) -> Curve:
        errors = [self.measure.error((name, index)) ** 2 for index in range(self.counts[name])]
        return Curve(tuple(zip(self.energies[name], errors, strict=True)))

    def _keep(self) -> None:
        self._state = self._entry()
        if time.monotonic() >= self._written + PAUSE:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._state is not None:
            self.cache.put("effects", self.key, self._state.header, self._state.arrays)

    def _entry(self) -> Entry | None:
        """All that was measured of whole layers; the measure may hold parts of the next one later."""
        if self.cache.cache is None or not isinstance(self.measure, OutputErrorMetric):
            return None
        sums: dict[Any, Any] = self.measure.sums()
        rows = tuple((layer, index, output) for (layer, index), output in sums)
        energies = {name: tuple(of_layer) for name, of_layer in self.energies.items()}
        header = to_plain(_Header(self.done, energies, rows))
        return Entry(header, {"sums": np.array(list(sums.values())).reshape(len(rows), -1)})

    def _restore(self, entry: Entry) -> None:
        header, sums = from_plain(_Header, entry.header, "effects"), entry.arrays.get("sums")
        energies = {name: len(of_layer) for name, of_layer in header.energies.items()}
        if sums is None or sums.shape != (len(header.rows), 5) or energies != self.counts:
            raise FormatError("effects: the sums are not those of what was tried")
        assert isinstance(self.measure, OutputErrorMetric)
        self.measure.restore(
            {((layer, index), name): row for (layer, index, name), row in zip(header.rows, sums, strict=True)}
        )
        self.done = header.done
        self.energies = {name: list(of_layer) for name, of_layer in header.energies.items()}
