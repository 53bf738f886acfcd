"""What the tests of this folder share: small networks, their factorizations, and search by exhaustion."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from twofold.conv import ConvGeometry, ConvLayer, Skipped
from twofold.lowrank.protocols import Factorization
from twofold.lowrank.schemes import scheme
from twofold.planning import Plan, PlanOptions, make_plan, requests

SHAPES = ((24, 12, 3, 1), (16, 24, 3, 2), (32, 16, 5, 1), (8, 32, 1, 1))
"""C_out, C_in, kernel, stride of a small network whose ranks in steps of 4 can be searched exhaustively."""


def make_layer(
    name: str, geometry: ConvGeometry, input_sizes: tuple[tuple[int, ...], ...] = ((20, 20),), seed: int = 0
) -> ConvLayer:
    """A layer whose spectrum falls as those of trained ones do."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(geometry.weight_shape)
    weight *= np.geomspace(1, 0.02, geometry.c_out).reshape(-1, *[1] * (weight.ndim - 1))
    return ConvLayer(name, geometry, weight, None, input_sizes)


def small_net(
    *, sized: bool = True, shapes: Sequence[tuple[int, int, int, int]] = SHAPES
) -> list[ConvLayer | Skipped]:
    layers: list[ConvLayer | Skipped] = []
    size: tuple[int, ...] = (20, 20)
    for i, (c_out, c_in, k, stride) in enumerate(shapes):
        geometry = ConvGeometry.of(c_out, c_in, (k, k), stride=stride, pad=k // 2)
        layers.append(make_layer(f"conv{i}", geometry, (size,) if sized else (), seed=i))
        size = geometry.output_size(size)
    grouped = ConvGeometry.of(8, 8, (3, 3), pad=1, groups=8)
    layers.append(
        Skipped("depthwise", "grouped", grouped, grouped.macs(size) if sized else None, grouped.params)
    )
    return layers


def factorize(layers: Sequence[ConvLayer | Skipped], options: PlanOptions) -> dict[str, list[Factorization]]:
    by_name = {layer.name: layer for layer in layers if isinstance(layer, ConvLayer)}
    return {
        name: [scheme(r.scheme).factorize(by_name[name], r.variant, max_ranks=r.max_ranks) for r in wanted]
        for name, wanted in requests(layers, options).items()
    }


def plan_for(layers: Sequence[ConvLayer | Skipped], options: PlanOptions, **given: object) -> Plan:
    """Plan with exactly the factorizations that `requests` asks for."""
    return make_plan(layers, factorize(layers, options), options, **given)  # type: ignore[arg-type]


def best_by_exhaustion(
    costs: Sequence[np.ndarray], errors: Sequence[np.ndarray], limit: float
) -> float | None:
    """Smallest summed error of all choices within the limit; None if there is none."""
    best = None
    for picks in itertools.product(*(range(len(c)) for c in costs)):
        if sum(c[p] for c, p in zip(costs, picks, strict=True)) <= limit:
            error = sum(e[p] for e, p in zip(errors, picks, strict=True))
            best = error if best is None else min(best, error)
    return best
