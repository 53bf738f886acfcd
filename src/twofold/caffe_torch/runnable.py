"""The part of a net that can be run: without layers that cannot, and without what lies behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import ModelError
from ..formats.caffe.net import LayerSpec
from .layer import Layer, ShapeUnknownError, UnsupportedError
from .net import CaffeNet
from .registry import REJECTED

_NAMED = 3


@dataclass(frozen=True, eq=False)
class Runnable:
    """What of a net can be run.

    Attributes:
        net: its layers that can be run and depend on none that cannot; the net itself where all can.
        stopped: why others cannot be run, in words; a reason for each type.
        stand_ins: inner blobs that are outputs of `net`: what the layers that are missing are given.
    """

    net: CaffeNet
    stopped: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What users must know; nothing where all can be run."""
        if not self.stopped:
            return ()
        instead = ", ".join(map(repr, self.stand_ins))
        stand = f"; {instead} inside of the net stand for them" if instead else ""
        return (f"{'; '.join(self.stopped)}. Outputs that depend on it are not computed{stand}",)


def runnable(net: CaffeNet) -> Runnable:
    """The part of a net that can be run; it shares its layers with the net."""
    lost, gone = set[str](), list[int]()
    stopped: list[tuple[LayerSpec, ModelError]] = []
    specs = net.definition.layers
    for index, (spec, layer) in enumerate(zip(specs, net.layers, strict=True)):
        behind = not lost.isdisjoint(spec.bottoms)
        why = layer.obstacle if isinstance(layer, Layer) and spec.bottoms else None
        if why is None and not behind:
            lost.difference_update(spec.tops)
            continue
        gone.append(index)
        lost.update(spec.tops)
        # Behind a lost layer shapes are unknown for that reason alone.
        if why is not None and not (behind and isinstance(why, ShapeUnknownError)):
            stopped.append((spec, why))
    if not gone:
        return Runnable(net)
    part = net.without(gone)
    wanted = {name for index in gone for name in specs[index].bottoms}
    return Runnable(part, reasons(stopped), tuple(name for name in part.outputs if name in wanted))


def reasons(stopped: Iterable[tuple[LayerSpec, ModelError]]) -> tuple[str, ...]:
    """Why layers cannot be run; those that cannot for one reason together."""
    unknown: dict[str, list[str]] = {}
    found: list[str] = []
    for spec, error in stopped:
        known = isinstance(error, UnsupportedError)
        if known and spec.known_type:
            found.append(str(error))
            continue
        if known:
            why = f" ({spec.variant}) cannot be run, since it is not known what that does"
        elif spec.type in REJECTED:
            why = f" ({spec.type}) cannot be run: {REJECTED[spec.type]}"
        else:
            why = f" of the unknown type {spec.type!r} cannot be run"
        unknown.setdefault(why, []).append(spec.name)
    return (*(f"{_named(names)}{why}" for why, names in unknown.items()), *found)


def _named(names: Sequence[str]) -> str:
    listed = ", ".join(map(repr, names[:_NAMED]))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"layer {listed}" if len(names) == 1 else f"layers {listed}{more}"
