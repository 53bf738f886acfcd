"""Which layers of a net to run, and when a blob is no longer needed.

A blob's name stands for one value after the other where layers work in place; all here are statements about
names at a position: position i is the moment before layer i.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ..formats.caffe.net import LayerSpec


@dataclass(frozen=True)
class Scheduled:
    """One layer to run.

    Attributes:
        index: its position in the net.
        frees: blobs that nobody reads after it.
    """

    index: int
    frees: tuple[str, ...]


def schedule(
    layers: Sequence[LayerSpec], start: int, stop: int, keep: Iterable[str], also: Collection[int] = ()
) -> list[Scheduled]:
    """The layers between two positions on which some blobs depend.

    Args:
        layers: all layers of the net.
        start: position of the first layer that may run.
        stop: position behind the last.
        keep: blobs whose values at `stop` are wanted.
        also: positions of layers that run even if no blob depends on them.
    """
    kept = frozenset(keep)
    wanted, seen = set(kept), set[str]()
    chosen: list[Scheduled] = []
    for i in reversed(range(start, stop)):
        if i not in also and wanted.isdisjoint(layers[i].tops):
            continue
        touched = dict.fromkeys((*layers[i].bottoms, *layers[i].tops))
        # Backwards, who meets a name first is its last user.
        chosen.append(Scheduled(i, tuple(name for name in touched if name not in seen and name not in kept)))
        seen.update(touched)
        # In this order: a layer that works in place needs what it replaces.
        wanted.difference_update(layers[i].tops)
        wanted.update(layers[i].bottoms)
    return chosen[::-1]


def live(
    layers: Sequence[LayerSpec], position: int, outputs: Iterable[str], inputs: frozenset[str]
) -> frozenset[str]:
    """Blobs at `position` that later layers read, or that are outputs already.

    Args:
        layers: all layers of the net.
        position: where.
        outputs: blobs that are wanted in the end.
        inputs: tops that no layer computes; they are there from the beginning.
    """
    needed = set(outputs)
    for layer in reversed(layers[position:]):
        needed.difference_update(top for top in layer.tops if layer.bottoms or top not in inputs)
        needed.update(layer.bottoms)
    return frozenset(needed)


def outputs(layers: Sequence[LayerSpec]) -> tuple[str, ...]:
    """Blobs that a layer computes and none consumes, in the order in which they arise.

    A top in place of a bottom consumes the bottom and is a blob again. What a layer without bottoms gives is
    an input, and no output even if nothing reads it.
    """
    free: dict[str, bool] = {}
    for layer in layers:
        for name in layer.bottoms:
            free.pop(name, None)
        for name in layer.tops:
            free[name] = bool(layer.bottoms)
    return tuple(name for name, computed in free.items() if computed)
