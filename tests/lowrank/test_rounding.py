"""What a stack loses by half precision, and what a step of the refinement gains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.lowrank.cases import make_layer

from twofold.conv import ConvGeometry, ConvLayer, FactorConv, Factors
from twofold.lowrank import energy_error
from twofold.lowrank.covariance import PatchCovariance
from twofold.lowrank.measure import as_stored
from twofold.lowrank.refine import Alternations
from twofold.lowrank.unfold import Split, fold, unfold


def stack(first: np.ndarray, second: np.ndarray) -> Factors:
    convs = (
        FactorConv(ConvGeometry.of(len(weight), weight.shape[1], (1, 1)), weight[..., None, None])
        for weight in (first, second)
    )
    return Factors("channel", (len(first),), tuple(convs))


@pytest.mark.parametrize(
    ("growth", "rounded"), [(1e-4, True), (0.9e-3, True), (1.1e-3, False), (1e-2, False)]
)
def test_half_precision_is_taken_where_the_error_grows_by_a_thousandth_at_most(growth, rounded):
    rng = np.random.default_rng(0)
    first, coarse = (
        rng.standard_normal(size).astype(np.float16).astype(np.float32) for size in ((4, 6), (8, 4))
    )
    second = coarse * np.float32(1 + 2.0**-13)  # rounding takes away what half precision does not have
    whole, halves = stack(first, second), stack(first, coarse)
    # A layer that the stack is so far from that rounding makes its error grow as asked for.
    step = (second - coarse).astype(np.float64) @ first
    far = rng.standard_normal(step.shape)
    far -= step * np.sum(far * step) / np.sum(step**2)
    far *= np.sqrt(np.sum(step**2) / growth / np.sum(far**2))
    weight = (second.astype(np.float64) @ first + far)[..., None, None]
    layer = ConvLayer("a", ConvGeometry.of(8, 6, (1, 1)), weight, bits=11)
    assert energy_error(layer, halves) / energy_error(layer, whole) - 1 == pytest.approx(growth, rel=1e-3)
    stored = as_stored(layer, whole)
    assert [
        np.array_equal(one.weight, other.weight)
        for one, other in zip(stored.convs, halves.convs, strict=True)
    ] == [
        True,
        rounded,
    ]
    assert as_stored(replace(layer, bits=24), whole) is whole


@pytest.mark.parametrize(
    ("channels", "split"),
    [
        (6, Split((0,), (1,))),
        (6, Split((1,), (0,))),
        (6, Split((), (0, 1))),
        (60, Split((0,), (1,))),  # 540 values of a patch: in float32
    ],
)
def test_conjugate_gradients_come_close_to_the_best_first_factor(channels, split):
    """Against the linear system, which is small here; what inputs vary by spans three decades."""
    geometry, shift = ConvGeometry.of(24, channels, (3, 3), pad=1), 1e-3
    layer = make_layer(geometry)
    size = layer.weight[0].size
    rng = np.random.default_rng(3)
    spread = rng.standard_normal((size, size)) @ np.diag(np.geomspace(1, 10**-1.5, size))
    matrix = spread @ spread.T / size
    root = np.linalg.cholesky(matrix + shift * np.eye(size))
    M = unfold(layer.weight, geometry, split)
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    V, H = U[:, :5] * s[:5], Vt[:5]

    def seen(unfolded: np.ndarray) -> np.ndarray:
        return (fold(unfolded, geometry, split).reshape(geometry.c_out, -1) @ root).ravel()

    columns = np.stack([seen(unit.reshape(V.shape) @ H) for unit in np.eye(V.size)], 1)
    best = np.linalg.lstsq(columns, seen(M), rcond=None)[0]
    C, W = PatchCovariance(matrix, shift, geometry, split), layer.weight.reshape(24, -1).T
    better = Alternations(layer.weight, C, C.apply(W)).first(V, H)
    start, found, least = (float(np.sum((columns @ one.ravel() - seen(M)) ** 2)) for one in (V, better, best))
    gap = (found - least) / (start - least)
    assert 0 <= gap < 1e-3
