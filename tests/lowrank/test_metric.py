"""Fits in the network's metric."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from twofold.calibration.statistics import strips_of
from twofold.conv import ConvGeometry, ConvLayer, LayerStatistics
from twofold.lowrank import SCHEMES, FitOptions, LayerFit, composed
from twofold.lowrank.measure import as_stored

GEOMETRY = ConvGeometry.of(12, 6, (3, 3), pad=1)


def make(geometry=GEOMETRY, seed=0, gradient=True):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=geometry.weight_shape).astype(np.float32)
    layer = ConvLayer("conv", geometry, weight, rng.normal(size=geometry.c_out).astype(np.float32))
    d = geometry.c_in * 9
    root = rng.normal(size=(d, d)) * 0.7 ** np.arange(d)
    covariance = root @ root.T + 1e-3 * np.eye(d)
    scales = 4.0 ** -np.arange(geometry.c_out)
    turn, _ = np.linalg.qr(rng.normal(size=(geometry.c_out,) * 2))
    G = (turn * scales) @ turn.T
    G *= geometry.c_out / np.trace(G)
    mean = rng.normal(size=d)
    return layer, LayerStatistics(
        1000, mean, covariance, strips_of(covariance, geometry), G if gradient else None
    )


def loss(layer, factors, statistics, metric):
    """Energy of the output's error in a metric, and of the output itself, by the definition."""
    W = layer.weight.reshape(len(layer.weight), -1).astype(np.float64)
    D = W - composed(factors).reshape(W.shape)
    return [float(np.einsum("oi,ij,pj,op->", M, statistics.covariance, M, metric)) for M in (D, W)]


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_full_rank_is_the_layer(name):
    layer, statistics = make()
    for variant in SCHEMES[name].variants(GEOMETRY):
        found = LayerFit(layer, statistics).factorize(name, variant)
        factors = found.factors(found.max_ranks)
        np.testing.assert_allclose(composed(factors), layer.weight, atol=2e-4)
        np.testing.assert_allclose(factors.convs[-1].bias, layer.bias, atol=2e-3)
        assert all(conv.weight.dtype == np.float32 for conv in factors.convs)


@pytest.mark.parametrize("name", ["spatial", "channel"])
def test_the_error_is_that_of_the_metric_and_smaller_there(name):
    """With power 1 the fit's own error is tr(G D C D^T), and beats the plain fit in it."""
    layer, statistics = make()
    variant = SCHEMES[name].variants(GEOMETRY)[0]
    weighted = LayerFit(layer, statistics, FitOptions(metric_power=1.0)).factorize(name, variant)
    plain = LayerFit(layer, statistics, FitOptions(metric_power=0.0)).factorize(name, variant)
    rank = (max(1, weighted.max_ranks[0] // 3),)
    damped = statistics.gradient + 1e-3 * np.eye(12)
    lost, whole = loss(layer, weighted.factors(rank), statistics, damped)
    assert weighted.energy_error(rank) == pytest.approx(lost / whole, rel=1e-2)
    assert lost < 0.8 * loss(layer, plain.factors(rank), statistics, damped)[0]


@pytest.mark.parametrize("name", ["spatial", "channel", "tucker2"])
def test_factors_for_half_precision_are_rounded_once(name):
    """They are those of the same layer in single precision, rounded when they are finished."""
    layer, statistics = make()
    half = replace(layer, weight=layer.weight.astype(np.float16).astype(np.float32), bits=11)
    variant = SCHEMES[name].variants(GEOMETRY)[0]
    found, single = (
        LayerFit(of, statistics).factorize(name, variant) for of in (half, replace(half, bits=24))
    )
    ranks = tuple(max(1, rank // 3) for rank in found.max_ranks)
    rounded = as_stored(half, single.factors(ranks))
    for one, other, exact in zip(
        found.factors(ranks).convs, rounded.convs, single.factors(ranks).convs, strict=True
    ):
        np.testing.assert_array_equal(one.weight, other.weight)
        assert not np.array_equal(one.weight, exact.weight)


def test_without_a_power_or_a_gradient_it_is_the_plain_fit():
    layer, statistics = make(gradient=False)
    one = LayerFit(layer, statistics).factorize("spatial", "hw").factors((5,))
    two = SCHEMES["spatial"].factorize(layer, "hw", statistics).factors((5,))
    three = LayerFit(*make(), FitOptions(metric_power=0.0)).factorize("spatial", "hw").factors((5,))
    for other in (two, three):
        for a, b in zip(one.convs, other.convs, strict=True):
            np.testing.assert_array_equal(a.weight, b.weight)


def test_the_mean_output_stays():
    layer, statistics = make()
    factors = LayerFit(layer, statistics).factorize("channel", "").factors((3,))
    W, V = (x.reshape(12, -1).astype(np.float64) for x in (layer.weight, composed(factors)))
    shift = W @ statistics.mean + layer.bias - (V @ statistics.mean + factors.convs[-1].bias)
    np.testing.assert_allclose(shift, 0, atol=1e-4)
