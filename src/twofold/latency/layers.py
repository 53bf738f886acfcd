"""Times of a network's layers and of what may replace them, gathered into prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..conv import ConvGeometry, ConvLayer, Size
from ..errors import PlanError
from ..lowrank.schemes import scheme
from ..planning import Choice, Request
from ..planning.timing import Timing
from ..planning.workload import Workload
from .clock import Time
from .cost import Curve, LatencyCost, SchemeKey, block_of, probes
from .stacks import Stack, uses
from .stopwatch import Stopwatch

Probes = Mapping[SchemeKey, Sequence[Size]]

#: A time that differs from what was predicted by more than this fraction puts all times of its layer in
#: doubt.
_SURPRISE = 0.15


def probe_groups(
    layers: Sequence[ConvLayer], wanted: Mapping[str, Sequence[Request]], block: int, batch: int,
    workload: Workload,
) -> list[list[Stack]]:  # fmt: skip
    """The stacks that tell all times of a network: per layer and use, itself and what may replace it.

    Args:
        layers: those that may be replaced.
        wanted: by name of the layer, the schemes and variants that compete, with the largest ranks.
        block: channels that the runtime computes together.
        batch: images per run.
        workload: counts MACs.

    Raises:
        PlanError: the input size of a layer is not known.
    """
    groups = []
    for layer in layers:
        if not layer.input_sizes:
            raise PlanError(
                f"{layer.name}: its input size is not known, so it cannot be timed; give the shapes of the "
                "model's inputs"
            )
        groups += _groups(layer, _chains(layer, _probes(layer, wanted[layer.name], block, workload)), batch)
    return groups


def layer_costs(
    model: Any, layers: Sequence[ConvLayer], wanted: Mapping[str, Sequence[Request]], timer: Stopwatch,
    batch: int, workload: Workload, *, anew: bool = False,
) -> LatencyCost:  # fmt: skip
    """Times of a network, of all layers that may be replaced, and of their candidates; see `probe_groups`.

    Args:
        model: the network.
        layers: those that may be replaced.
        wanted: by name of the layer, the schemes and variants that compete.
        timer: tells times.
        batch: images per run.
        workload: counts MACs.
        anew: measure even what is known.
    """
    groups = probe_groups(layers, wanted, timer.block, batch, workload)
    times = timer.seconds(groups, anew=anew)
    network = timer.network(model, [layer for layer, *_ in groups])
    own, curves, scales = {}, {}, {}
    for layer in layers:
        before = _seconds(times, layer, (layer.geometry,), batch)
        now = [network.layers.get(stack.key) for stack in uses(layer, (layer.geometry,), batch)]
        own[layer.name] = sum(one for one in now if one is not None) if None not in now else before
        scales[layer.name] = scale = own[layer.name] / before if before else 1.0
        curves[layer.name] = {
            key: Curve(
                {r: scale * _seconds(times, layer, _chain(layer, key, r), batch) for r in ranks},
                block_of(layer, timer.block),
            )
            for key, ranks in _probes(layer, wanted[layer.name], timer.block, workload).items()
        }
    total = sum(own.values())
    # Where nothing tells the time of the network, these layers stand for it.
    known = total if network.seconds is None else network.seconds
    return LatencyCost(own, curves, known, 1.0, scales)


def verified(
    prices: LatencyCost,
    layers: Mapping[str, ConvLayer],
    choices: Sequence[Choice],
    timer: Stopwatch,
    batch: int,
) -> tuple[LatencyCost, dict[str, Timing]]:
    """Time what was chosen at its very ranks, and all candidates of a layer again where that is a surprise.

    Returns:
        The prices as they are known now, and by name of the layer what was predicted and measured.
    """
    chosen = {c.layer: (layers[c.layer], (c.scheme, c.variant), c.ranks) for c in choices}
    chains = {name: _chain(layer, key, ranks) for name, (layer, key, ranks) in chosen.items()}
    groups = [group for name, chain in chains.items() for group in _groups(layers[name], [chain], batch)]
    times = timer.seconds(groups, anew=True)
    curves = {name: dict(of_layer) for name, of_layer in prices.curves.items()}
    timings = {}
    for name, (layer, key, ranks) in chosen.items():
        scale = prices.scales.get(name, 1.0)
        own, found = prices.own[name], scale * _seconds(times, layer, chains[name], batch)
        spread = max(times[stack.key].spread for stack in uses(layer, chains[name], batch))
        predicted = prices.layer_seconds(name, *key, ranks)
        timings[name] = Timing((own, predicted), (own, found), spread)
        if abs(found / predicted - 1) > _SURPRISE:
            curves[name] = _again(layer, curves[name], timer, batch, scale)
        curve = curves[name][key]
        curves[name][key] = replace(curve, points={**curve.points, ranks: found})
    return replace(prices, curves=curves), timings


def _again(
    layer: ConvLayer, curves: Mapping[SchemeKey, Curve], timer: Stopwatch, batch: int, scale: float
) -> dict[SchemeKey, Curve]:
    """The curves of a layer, measured anew."""
    points = {key: tuple(curve.points) for key, curve in curves.items()}
    times = timer.seconds(_groups(layer, _chains(layer, points), batch), anew=True)
    return {
        key: replace(
            curve,
            points={r: scale * _seconds(times, layer, _chain(layer, key, r), batch) for r in curve.points},
        )
        for key, curve in curves.items()
    }


def _groups(layer: ConvLayer, chains: Sequence[tuple[ConvGeometry, ...]], batch: int) -> list[list[Stack]]:
    """Per use of a layer: itself, and the chains that may replace it."""
    of_chains = [uses(layer, chain, batch) for chain in ((layer.geometry,), *chains)]
    return [list(of_use) for of_use in zip(*of_chains, strict=True)]


def _probes(layer: ConvLayer, wanted: Sequence[Request], block: int, workload: Workload) -> Probes:
    return {(one.scheme, one.variant): probes(layer, one, block, workload) for one in wanted}


def _chains(layer: ConvLayer, of_layer: Probes) -> list[tuple[ConvGeometry, ...]]:
    return [_chain(layer, key, ranks) for key, points in of_layer.items() for ranks in points]


def _chain(layer: ConvLayer, key: SchemeKey, ranks: Size) -> tuple[ConvGeometry, ...]:
    return scheme(key[0]).chain(layer.geometry, key[1], ranks)


def _seconds(times: Mapping[str, Time], layer: ConvLayer, chain: Sequence[ConvGeometry], batch: int) -> float:
    return sum(times[stack.key].median for stack in uses(layer, chain, batch))
