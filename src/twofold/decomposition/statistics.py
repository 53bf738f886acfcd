"""The statistics of layers between the pass that gathers them and the fits that use them up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ..calibration.gather import CalibrationOptions, Extent, Statistics, gather, record_of
from ..calibration.inputs import Inputs
from ..calibration.runner import Runner
from ..calibration.sound import unsound
from ..calibration.store import pack, unpack
from ..conv import ConvLayer, LayerStatistics
from ..errors import FormatError
from .cache import RunCache, array_digest, layer_type_digest, samples_digest


@dataclass(frozen=True, eq=False)
class LayerSource:
    """Statistics of layers, which are large: each is taken out once.

    Attributes:
        held: those in memory, by layer name.
        keys: see `calibration.gather.Statistics`.
        again: likewise.
    """

    held: dict[str, LayerStatistics] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    again: Callable[[str], LayerStatistics] | None = None

    @classmethod
    def of(cls, found: Statistics) -> LayerSource:
        """Those that were gathered."""
        return cls(dict(found.layers), found.keys, found.again)

    def take(self, name: str) -> LayerStatistics | None:
        """The statistics of a layer; None for one that is fitted to its weights alone."""
        if name in self.held:
            return self.held.pop(name)
        return self.again(name) if self.again is not None and name in self.keys else None


def cached_statistics(
    cache: RunCache, runner: Runner, layers: Sequence[ConvLayer], inputs: Inputs, options: CalibrationOptions
) -> Statistics:
    """Gather the statistics of the layers of which the cache has none, in one pass, and keep them there.

    What runs a model treats each layer by itself, so that its statistics are the same whichever others are
    looked at with it. Those that the cache has are read when they are asked for. Each process looks at the
    layers that it owns, so that no covariance is sent.
    """
    extent = cache.ranks.from_first("the memory's extent", lambda: Extent.of(layers, options))
    chosen = {layer.name: layer for layer in extent.looked_at(layers)}
    keys = {
        name: cache.key(
            "statistics", name, layer_type_digest(layer.geometry), extent.moments(layer),
            extent.options(layer, inputs, options).positions, samples_digest(inputs),
        )
        for name, layer in chosen.items()
    }  # fmt: skip

    def keep(missing: Sequence[ConvLayer]) -> Mapping[str, LayerStatistics]:
        found = gather(runner, missing, inputs, options, extent).layers
        for name, statistics in found.items():
            cache.put("statistics", keys[name], *pack(name, statistics))
        return found

    def again(name: str) -> LayerStatistics:
        entry = cache.get("statistics", keys[name])
        if entry is not None:
            with suppress(FormatError):
                found = unpack(entry.header, entry.arrays)
                if unsound(chosen[name], found) is None:
                    return found
        return keep([chosen[name]])[name]

    missing = [
        layer
        for name, layer in chosen.items()
        if cache.owns(name) and not cache.has("statistics", keys[name])
    ]
    held = cache.ranks.agreed("the statistics", lambda: keep(missing) if missing else {})
    record = record_of(runner, inputs, options, extent)
    return Statistics(held, record, extent.notes(layers), keys, again)


def content_keys(cache: RunCache, layers: Mapping[str, LayerStatistics]) -> dict[str, str]:
    """Keys of statistics from a file, whose options are not known: hashes of their values."""
    return {} if cache.cache is None else {name: cache.key(*_content(s)) for name, s in layers.items()}


def _content(statistics: LayerStatistics) -> list[object]:
    header, arrays = pack("", statistics)
    return ["content", header, {name: array_digest(array) for name, array in arrays.items()}]
