"""Statistics of layers with groups."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.calibration.grouped import GroupedAccumulator, accumulator
from twofold.calibration.statistics import StatisticsAccumulator, StatisticsOptions, covariance_bytes
from twofold.conv import ConvGeometry, ConvLayer
from twofold.errors import InputError
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
