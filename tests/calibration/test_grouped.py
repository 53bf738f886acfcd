"""Statistics of layers with groups."""

from __future__ import annotations

import numpy as np
import pytest
from tests.small import HEAD, conv, write

import twofold
from twofold.calibration.gather import CalibrationOptions
from twofold.calibration.grouped import GroupedAccumulator, accumulator, factor_accumulator
from twofold.calibration.statistics import StatisticsAccumulator, StatisticsOptions, covariance_bytes
from twofold.conv import ConvGeometry, ConvLayer
from twofold.errors import InputError, OptionError
from twofold.lowrank import SCHEMES, energy_error
from twofold.lowrank.groups import one_group

GEOMETRY = ConvGeometry.of(6, 6, (3, 2), stride=(1, 2), pad=1, groups=3)
X = np.random.default_rng(0).standard_normal((3, 6, 9, 8)).astype(np.float32)


@pytest.mark.parametrize("memory", [None, 1000])
def test_each_group_has_what_it_would_have_alone(memory):
    options = StatisticsOptions(memory=memory, positions=20, seed=4)
    whole = accumulator(GEOMETRY, options)
    assert whole.full is (memory is None)
    whole.update(X)
    found = whole.result()
    assert found.count == whole.count
    for group in range(3):
        limit = None if memory is None else memory // 3
        alone = StatisticsAccumulator(one_group(GEOMETRY), StatisticsOptions(limit, 20, 4))
        alone.update(X[:, 2 * group : 2 * group + 2])
        wanted = alone.result()
        np.testing.assert_array_equal(found.mean[group], wanted.mean)
        if memory is None:
            np.testing.assert_array_equal(found.covariance[group], wanted.covariance)
        for strip, other in zip(found.strips, wanted.strips, strict=True):
            np.testing.assert_array_equal(strip[group], other)


def test_schemes_take_what_was_gathered():
    gathered = accumulator(GEOMETRY)
    gathered.update(X)
    statistics = gathered.result()
    layer = ConvLayer("c", GEOMETRY, np.random.default_rng(1).standard_normal(GEOMETRY.weight_shape))
    for name in SCHEMES:
        variant = SCHEMES[name].variants(GEOMETRY)[0]
        fitted = SCHEMES[name].factorize(layer, variant, statistics)
        plain = SCHEMES[name].factorize(layer, variant)
        ranks = tuple(max(1, r // 2) for r in fitted.max_ranks)
        errors = [energy_error(layer, f.factors(ranks), statistics) for f in (fitted, plain)]
        assert errors[0] < errors[1]


def test_layers_without_groups_stay_with_the_plain_one():
    assert type(accumulator(one_group(GEOMETRY))) is StatisticsAccumulator
    assert covariance_bytes(GEOMETRY) == 3 * covariance_bytes(one_group(GEOMETRY))


def test_what_does_not_fit():
    with pytest.raises(InputError, match=r"\(N, 6, size of 2 axes\) is needed, got \(3, 4, 9, 8\)"):
        GroupedAccumulator(GEOMETRY).update(X[:, :4])
    with pytest.raises(InputError, match="no patch was seen"):
        GroupedAccumulator(GEOMETRY).result()


def net(folder):
    """Three convolutions, the second with two groups."""
    grouped = conv("two", "one").replace("kernel_size: 3", "kernel_size: 3\n    group: 2")
    head = HEAD.replace("dim: 16", "dim: 3")
    return twofold.load(*write(folder, head + conv("one", "data") + grouped + conv("three", "two")))


@pytest.mark.parametrize("memory", [None, 4000])
def test_a_net_with_groups_is_calibrated(tmp_path, memory):
    pytest.importorskip("torch")
    options = CalibrationOptions(memory=memory, synthetic=16)
    kept = tmp_path / "statistics.npz"
    given = {"ranks": {"t*": 16}, "schemes": "spatial", "calibration": options, "statistics": kept}
    result = twofold.decompose(net(tmp_path), **given)
    again = twofold.decompose(net(tmp_path), **given)
    plain = twofold.decompose(net(tmp_path), ranks={"t*": 16}, schemes="spatial", no_data=True)
    for one, other in zip(result.factors["two"].convs, again.factors["two"].convs, strict=True):
        np.testing.assert_allclose(one.weight, other.weight, rtol=0, atol=1e-6)
    for one, other in zip(result.factors["two"].convs, plain.factors["two"].convs, strict=True):
        assert np.abs(one.weight - other.weight).max() > 1e-3
    assert any("take another pass" in note for note in result.plan.notes) is (memory is not None)
    result.save(tmp_path / "out")


@pytest.mark.parametrize("geometry", [GEOMETRY, ConvGeometry.of(8, 12, (1, 1), groups=2)], ids=str)
def test_over_the_limit_one_more_pass_fits_all_groups_as_their_covariances_would(geometry):
    layer = ConvLayer("c", geometry, np.random.default_rng(1).standard_normal(geometry.weight_shape))
    mixed = np.random.default_rng(2).standard_normal((geometry.c_in, geometry.c_in))
    batches = [np.einsum("nchw,dc->ndhw", x, mixed).astype(np.float32) for x in _batches(geometry.c_in)]
    passes = []

    def second_pass(whole, pair):
        passes.append(pair.convs[0].geometry.groups)
        gathering = factor_accumulator(whole, pair)
        for x in batches:
            gathering.update(x)
        return gathering.result()

    full, less = (accumulator(geometry, StatisticsOptions(memory)) for memory in (None, 0))
    for x in batches:
        full.update(x)
        less.update(x)
    full, less = full.result(), less.result()
    taking = [name for name in SCHEMES if SCHEMES[name].rejection(geometry) is None]
    for number, name in enumerate(taking):
        variant = SCHEMES[name].variants(geometry)[0]
        one = SCHEMES[name].factorize(layer, variant, full)
        two = SCHEMES[name].factorize(layer, variant, less, second_pass=second_pass)
        ranks = tuple(max(1, r // 2) for r in one.max_ranks)
        errors = [energy_error(layer, fitted.factors(ranks), full) for fitted in (one, two)]
        assert passes == [geometry.groups] * (number + 1)
        if name == "depthwise":  # terms are fitted to a model of the covariance, the last factor to all of it
            assert errors[1] <= 1.3 * errors[0]
            continue
        np.testing.assert_allclose(two.energy_errors(), one.energy_errors(), rtol=2e-3, atol=1e-6)
        assert errors[1] == pytest.approx(errors[0], rel=5e-3)
        assert errors[0] > 1e-3
        with pytest.raises(OptionError, match="no second pass"):
            SCHEMES[name].factorize(layer, variant, less)


def _batches(channels: int):
    rng = np.random.default_rng(3)
    return [rng.standard_normal((2, channels, 9, 8)) for _ in range(3)]
