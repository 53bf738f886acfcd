"""What the tests of this folder share: geometries, layers, statistics, and convolutions by brute force."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache

import numpy as np

from twofold.calibration.statistics import strips_of
from twofold.conv import Array, ConvGeometry, ConvLayer, FactorConv, LayerStatistics
from twofold.lowrank import SCHEMES

GEOMETRIES = (
    ConvGeometry.of(10, 6, (3, 3), pad=1),
    ConvGeometry.of(6, 11, (3, 5), stride=(2, 1), pad=(1, 3), dilation=(2, 1)),
    ConvGeometry(4, 30, (5, 2), (1, 3), ((0, 2), (1, 0)), (1, 2)),
    ConvGeometry.of(40, 3, (2, 4), stride=2, dilation=2),
    ConvGeometry.of(7, 9, (1, 1), stride=2),
    ConvGeometry.of(5, 4, (1, 3), pad=(0, 1)),
    ConvGeometry.of(6, 8, (3,), stride=2, pad=1),
    ConvGeometry.of(5, 4, (2, 3, 2), pad=1, dilation=(1, 2, 1)),
    ConvGeometry.linear(9, 7),
    ConvGeometry(6, 5, (4, 4), (2, 2), ((1, 1), (1, 1)), (1, 1), layer_type="transposed"),
    ConvGeometry(4, 7, (3, 2), (2, 3), ((1, 0), (0, 1)), (2, 1), 1, "transposed", (1, 2)),
    # The second axis is padded by more than its kernel reaches.
    ConvGeometry(5, 4, (3, 2), (1, 2), ((0, 1), (2, 2)), (1, 1), layer_type="transposed"),
    ConvGeometry(5, 6, (3,), (2,), ((1, 1),), (1,), layer_type="transposed", output_padding=(1,)),
)

CASES = [
    (name, variant, geometry)
    for name, scheme in SCHEMES.items()
    for geometry in GEOMETRIES
    if scheme.rejection(geometry) is None
    for variant in scheme.variants(geometry)
]


def make_layer(
    geometry: ConvGeometry, seed: int = 0, *, bias: bool = True, dtype: type = np.float64
) -> ConvLayer:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(geometry.weight_shape).astype(dtype)
    return ConvLayer(
        "conv", geometry, weight, rng.standard_normal(geometry.c_out).astype(dtype) if bias else None
    )


def patch_length(geometry: ConvGeometry) -> int:
    return geometry.c_in * math.prod(geometry.kernel)


def correlated(rows: int, columns: int, seed: int = 0) -> Array:
    """Samples with a decaying spectrum and a mean, as features of trained networks have."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((rows, columns)) * np.exp(-6 * np.arange(columns) / columns)
    return mixed @ np.linalg.qr(rng.standard_normal((columns, columns)))[0] + rng.standard_normal(columns)


@cache
def make_statistics(geometry: ConvGeometry, seed: int = 0) -> LayerStatistics:
    patches = correlated(4 * patch_length(geometry), patch_length(geometry), seed)
    return statistics_of(patches, geometry)


def statistics_of(patches: Array, geometry: ConvGeometry) -> LayerStatistics:
    covariance = np.atleast_2d(np.cov(patches.T, bias=True))
    return LayerStatistics(len(patches), patches.mean(axis=0), covariance, strips_of(covariance, geometry))


def without_groups(conv: FactorConv) -> FactorConv:
    """The same convolution with one group: zeros between channels of different groups."""
    g = conv.geometry
    rows, columns = g.c_out // g.groups, g.c_in // g.groups
    dense = np.zeros((g.c_out, g.c_in, *g.kernel))
    for i in range(g.groups):
        own = slice(i * rows, (i + 1) * rows)
        dense[own, i * columns : (i + 1) * columns] = conv.weight[own]
    return FactorConv(replace(g, groups=1), dense, conv.bias)


def convolve(x: Array, convs: tuple[FactorConv, ...]) -> Array:
    """A stack by brute force, taps in a loop: x (N, C_in, *size)."""
    for conv in map(without_groups, convs):
        g = conv.geometry
        if g.layer_type == "transposed":
            x = scatter(x, conv)
            continue
        padded = np.pad(x, ((0, 0), (0, 0), *g.pad))
        out = np.zeros((len(x), g.c_out, *g.output_size(x.shape[2:])))
        for tap in itertools.product(*(range(k) for k in g.kernel)):
            window = tuple(
                slice(t * d, t * d + s * (n - 1) + 1, s)
                for t, d, s, n in zip(tap, g.dilation, g.stride, out.shape[2:], strict=True)
            )
            out += np.einsum(
                "oi,ni...->no...", conv.weight[(slice(None), slice(None), *tap)], padded[(..., *window)]
            )
        if conv.bias is not None:
            out += conv.bias.reshape(-1, *(1,) * len(g.kernel))
        x = out
    return x


def scatter(x: Array, conv: FactorConv) -> Array:
    """A transposed convolution by brute force: every input position adds its kernel to the output."""
    g = conv.geometry
    whole = tuple(
        (n - 1) * s + d * (k - 1) + 1 + more
        for n, s, d, k, more in zip(
            x.shape[2:], g.stride, g.dilation, g.kernel, g.output_padding, strict=True
        )
    )
    out = np.zeros((len(x), g.c_out, *whole))
    for at in itertools.product(*map(range, x.shape[2:])):
        for tap in itertools.product(*map(range, g.kernel)):
            place = tuple(a * s + t * d for a, s, t, d in zip(at, g.stride, tap, g.dilation, strict=True))
            out[(..., *place)] += x[(..., *at)] @ conv.weight[(slice(None), slice(None), *tap)].T
    cropped = out[(..., *(slice(b, n - a) for n, (b, a) in zip(whole, g.pad, strict=True)))]
    return cropped if conv.bias is None else cropped + conv.bias.reshape(-1, *(1,) * len(g.kernel))


def as_conv(layer: ConvLayer) -> FactorConv:
    assert layer.weight is not None
    return FactorConv(layer.geometry, layer.weight, layer.bias)


def patches_of(x: Array, geometry: ConvGeometry) -> Array:
    """All patches (N * positions, C_in * taps) by brute force."""
    d = patch_length(geometry)
    identity = np.eye(d).reshape(d, geometry.c_in, *geometry.kernel)
    wide = replace(geometry, c_out=d)
    return np.moveaxis(convolve(x, (FactorConv(wide, identity),)), 1, -1).reshape(-1, d)
