"""Grouped convolutions: each group is a layer of its own."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from tests.lowrank.cases import correlated, make_layer, patch_length, statistics_of

from twofold.conv import ConvGeometry, ConvLayer, FactorConv, LayerStatistics
from twofold.errors import ModelError, OptionError
from twofold.lowrank import SCHEMES, FitOptions, composed, energy_error
from twofold.lowrank.groups import group_layers, one_group

torch = pytest.importorskip("torch")

GEOMETRIES = (
    ConvGeometry.of(8, 6, (3, 3), pad=1, groups=2),
    ConvGeometry(6, 9, (3, 2), (2, 1), ((0, 2), (1, 0)), (1, 2), 3),
    ConvGeometry.of(6, 8, (5,), stride=2, pad=2, groups=2),
    ConvGeometry.of(8, 4, (2, 3, 3), pad=1, groups=2),
    ConvGeometry.of(12, 8, (1, 1), groups=4),
)
CASES = [
    (name, variant, geometry)
    for name, scheme in SCHEMES.items()
    for geometry in GEOMETRIES
    if scheme.rejection(geometry) is None
    for variant in scheme.variants(geometry)
]
cases = pytest.mark.parametrize(("name", "variant", "geometry"), CASES)
both = pytest.mark.parametrize("data", [False, True], ids=["weights", "data"])


def patches_of_groups(geometry: ConvGeometry) -> list[np.ndarray]:
    d = patch_length(one_group(geometry))
    return [correlated(4 * d, d, seed) for seed in range(geometry.groups)]


def make_statistics(geometry: ConvGeometry) -> LayerStatistics:
    parts = [statistics_of(patches, one_group(geometry)) for patches in patches_of_groups(geometry)]
    return LayerStatistics(
        parts[0].count,
        np.stack([part.mean for part in parts]),
        np.stack([part.covariance for part in parts]),
        tuple(map(np.stack, zip(*(part.strips for part in parts), strict=True))),
    )


def apply(x: np.ndarray, convs: tuple[FactorConv, ...]) -> np.ndarray:
    """A stack by PyTorch, which knows groups itself."""
    y = torch.from_numpy(x)
    functions = [torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d]
    for conv in convs:
        g = conv.geometry
        y = torch.nn.functional.pad(y, [p for pair in reversed(g.pad) for p in pair])
        bias = None if conv.bias is None else torch.from_numpy(np.array(conv.bias))
        weight = torch.from_numpy(np.array(conv.weight))
        y = functions[len(g.kernel) - 1](y, weight, bias, g.stride, 0, g.dilation, g.groups)
    return y.numpy()


def some_input(geometry: ConvGeometry) -> np.ndarray:
    size = tuple(2 * d * k + 5 for k, d in zip(geometry.kernel, geometry.dilation, strict=True))
    return np.random.default_rng(1).standard_normal((2, geometry.c_in, *size))


@both
@cases
def test_full_rank_reproduces_the_layer(name, variant, geometry, data):
    layer = make_layer(geometry)
    fitted = SCHEMES[name].factorize(layer, variant, make_statistics(geometry) if data else None)
    full = SCHEMES[name].full_rank(geometry, variant)
    assert fitted.max_ranks == full
    assert fitted.energy_error(full) < 1e-18
    factors = fitted.factors(full)
    assert factors.chain == SCHEMES[name].chain(geometry, variant, full)
    assert factors.chain[0].groups == factors.chain[-1].groups == geometry.groups
    x = some_input(geometry)
    expected = apply(x, (FactorConv(geometry, np.array(layer.weight), layer.bias),))
    np.testing.assert_allclose(apply(x, factors.convs), expected, atol=1e-7 * np.abs(expected).max())


@both
@cases
def test_predicted_error_is_that_of_the_factors(name, variant, geometry, data):
    layer = make_layer(geometry)
    statistics = make_statistics(geometry) if data else None
    fitted = SCHEMES[name].factorize(layer, variant, statistics, options=FitOptions(ridge=0.0))
    assert fitted.energy_errors().flat[0] == pytest.approx(1)
    for ranks in itertools.product(*(range(1, r + 1) for r in fitted.max_ranks)):
        measured = energy_error(layer, fitted.factors(ranks), statistics)
        assert fitted.energy_error(ranks) == pytest.approx(measured, rel=1e-6, abs=1e-12)
        assert fitted.energy_errors()[ranks] == pytest.approx(fitted.energy_error(ranks))


@cases
def test_the_stack_is_that_of_the_groups(name, variant, geometry):
    """The dense convolution with a block-diagonal weight is the same layer; each block is fitted as alone."""
    layer = make_layer(geometry)
    ranks = tuple(max(1, r // 2) for r in SCHEMES[name].full_rank(geometry, variant))
    whole = SCHEMES[name].factorize(layer, variant).factors(ranks)
    alone = [SCHEMES[name].factorize(one, variant).factors(ranks) for one in group_layers(layer)]
    np.testing.assert_array_equal(composed(whole), np.concatenate([composed(part) for part in alone]))
    np.testing.assert_array_equal(whole.convs[-1].bias, layer.bias)


@cases
def test_the_bias_keeps_the_mean_output(name, variant, geometry):
    layer = make_layer(geometry)
    ranks = tuple(max(1, r // 2) for r in SCHEMES[name].full_rank(geometry, variant))
    fitted = SCHEMES[name].factorize(layer, variant, make_statistics(geometry))
    factors = fitted.factors(ranks)
    parts = zip(
        patches_of_groups(geometry), np.split(layer.weight, geometry.groups),
        np.split(composed(factors), geometry.groups), strict=True,
    )  # fmt: skip
    shift = [p.mean(axis=0) @ (w - v).reshape(len(w), -1).T for p, w, v in parts]
    np.testing.assert_allclose(factors.convs[-1].bias, layer.bias + np.concatenate(shift), atol=1e-9)


def test_groups_weigh_as_their_energies_do():
    geometry = GEOMETRIES[0]
    weight = np.array(make_layer(geometry).weight)
    weight[4:] *= 1e-3
    layer = ConvLayer("c", geometry, weight)
    first = SCHEMES["spatial"].factorize(group_layers(layer)[0], "hw")
    whole = SCHEMES["spatial"].factorize(layer, "hw")
    np.testing.assert_allclose(whole.energy_errors(), first.energy_errors(), atol=1e-5)
    zero = SCHEMES["spatial"].factorize(replace(layer, weight=np.zeros_like(weight)), "hw")
    assert not zero.energy_errors().any()


def test_rejections():
    depthwise = ConvGeometry.of(8, 8, (3, 3), groups=8)
    for scheme in SCHEMES.values():
        assert "depthwise" in scheme.rejection(depthwise)
        with pytest.raises(OptionError, match=r"conv: scheme .* does not apply: depthwise"):
            scheme.factorize(make_layer(depthwise), scheme.variants(depthwise)[0])
    geometry = GEOMETRIES[0]
    of_one = statistics_of(patches_of_groups(geometry)[0], one_group(geometry))
    with pytest.raises(ModelError, match="not those of 2 groups"):
        SCHEMES["channel"].factorize(make_layer(geometry), "", of_one)
