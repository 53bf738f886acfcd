"""Running moments against all patches cut by brute force, and the second pass against the full covariance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lowrank.cases import GEOMETRIES, convolve, make_layer, patches_of, statistics_of

from twofold.calibration import statistics
from twofold.calibration.statistics import (
    FactorAccumulator,
    PatchSampler,
    StatisticsAccumulator,
    StatisticsOptions,
    covariance_bytes,
    strips_of,
)
from twofold.calibration.store import SavedStatistics, load_statistics, save_statistics
from twofold.conv import ConvGeometry, ConvLayer, FactorConv, Factors, FactorStatistics, LayerStatistics
from twofold.errors import FormatError, InputError, ModelError, OptionError
from twofold.lowrank import SCHEMES, FitOptions, energy_error

#: Chunks are multiplied in float32.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def batches(geometry: ConvGeometry, count: int = 3, seed: int = 0) -> list[np.ndarray]:
    """Smooth images with a mean far from 0, of different sizes, as the layers of a network get."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        size = tuple(d * k + 9 + index for k, d in zip(geometry.kernel, geometry.dilation, strict=True))
        x = rng.standard_normal((2, geometry.c_in, *size))
        for axis in range(2, x.ndim):
            x = x + np.roll(x, 1, axis) + 0.5 * np.roll(x, 2, axis)
        mixed = np.einsum("ij,nj...->ni...", rng.standard_normal((geometry.c_in,) * 2), x)
        found.append((3 + mixed).astype(np.float32))
    return found


def gathered(geometry: ConvGeometry, options: StatisticsOptions | None = None) -> LayerStatistics:
    accumulator = StatisticsAccumulator(geometry, options or StatisticsOptions(positions=10**6))
    for x in batches(geometry):
        accumulator.update(x)
    return accumulator.result()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_moments_are_those_of_all_patches(geometry):
    patches = np.concatenate([patches_of(x.astype(np.float64), geometry) for x in batches(geometry)])
    expected, found = statistics_of(patches, geometry), gathered(geometry)
    assert found.count == len(patches)
    scale = np.trace(expected.covariance) / len(expected.covariance)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.covariance / scale, expected.covariance / scale, **CLOSE)
    assert found.covariance.dtype == np.float64
    limited = gathered(geometry, StatisticsOptions(memory=0, positions=10**6))
    assert limited.covariance is None
    for strips in (found.strips, limited.strips):
        for strip, other in zip(strips, expected.strips, strict=True):
            np.testing.assert_allclose(strip / scale, other / scale, **CLOSE)


@settings(max_examples=40)
@given(st.data())
def test_moments_of_any_geometry(data):
    axes = data.draw(st.integers(1, 3))

    def sizes(low, high):
        return tuple(data.draw(st.integers(low, high)) for _ in range(axes))

    pad = tuple(zip(sizes(0, 2), sizes(0, 2), strict=True))
    geometry = ConvGeometry(1, data.draw(st.integers(1, 4)), sizes(1, 3), sizes(1, 3), pad, sizes(1, 2))
    x = np.random.default_rng(0).standard_normal((2, geometry.c_in, *sizes(5, 9))).astype(np.float32)
    accumulator = StatisticsAccumulator(geometry, StatisticsOptions(positions=10**6))
    accumulator.update(x)
    patches = patches_of(x.astype(np.float64), geometry)
    expected = statistics_of(patches, geometry)
    found = accumulator.result()
    np.testing.assert_allclose(found.mean, expected.mean, **CLOSE)
    np.testing.assert_allclose(found.covariance, expected.covariance, **CLOSE)
    for strip, other in zip(found.strips, expected.strips, strict=True):
        np.testing.assert_allclose(strip, other, atol=1e-4)


def test_large_means_cancel_nothing():
    geometry = ConvGeometry.of(1, 3, (3, 3))
    rng = np.random.default_rng(0)
    accumulator = StatisticsAccumulator(geometry)
    patches = []
    for _ in range(4):
        x = (1000 + rng.standard_normal((4, 3, 12, 12))).astype(np.float32)
        accumulator.update(x)
        patches.append(patches_of(x.astype(np.float64), geometry))
    # With 1000 squared in float32 sums nothing would be left of a variance of 1.
    expected = np.cov(np.concatenate(patches).T, bias=True)
    np.testing.assert_allclose(accumulator.result().covariance, expected, atol=1e-4)


def test_many_chunks_are_one(monkeypatch):
    geometry = ConvGeometry.of(1, 5, (3, 3), pad=1)
    whole = gathered(geometry)
    monkeypatch.setattr("twofold.calibration.statistics._CHUNK_BYTES", 0)
    parts = gathered(geometry)
    assert parts.count == whole.count > 256
    np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-4, atol=1e-4)


def test_layers_share_memory_and_never_at_the_same_time(monkeypatch):
    monkeypatch.setattr(statistics, "_BUFFERS", statistics._Buffers())
    samplers = [PatchSampler(ConvGeometry.of(4, c_in, (3, 3)), StatisticsOptions()) for c_in in (2, 3, 5)]
    inputs = [np.full((1, one.geometry.c_in, 6, 6), value, np.float32) for value, one in enumerate(samplers)]
    places = set()
    for sampler, x in zip(samplers, inputs, strict=True):
        for chunk in sampler.chunks(x):
            assert (chunk == x.flat[0]).all()
            places.add(chunk.ctypes.data)
    assert len(places) == 1
    together = (sampler.chunks(x) for sampler, x in zip(samplers, inputs, strict=True))
    for chunks in zip(*together, strict=True):
        assert [set(chunk.ravel()) for chunk in chunks] == [{0}, {1}, {2}]
    assert len(statistics._BUFFERS._free) == statistics._KEPT


def test_positions_are_limited_seeded_and_fair():
    geometry = ConvGeometry.of(1, 1, (1, 1))
    ramp = np.arange(400, dtype=np.float32).reshape(1, 1, 20, 20)

    def few(seed: int) -> LayerStatistics:
        accumulator = StatisticsAccumulator(geometry, StatisticsOptions(positions=50, seed=seed))
        for _ in range(200):
            accumulator.update(ramp)
        return accumulator.result()

    assert few(0).count == 200 * 50
    assert few(0).mean == few(0).mean != few(1).mean
    # Standard error of the mean of 10 000 draws of a uniform variable of that spread: about 1.1.
    assert few(0).mean == pytest.approx(199.5, abs=4)
    assert few(0).covariance[0, 0] == pytest.approx(399**2 / 12, rel=0.05)


def test_memory_limit_is_kept_and_said():
    geometry = ConvGeometry.of(8, 64, (3, 3))
    need = covariance_bytes(geometry)
    assert need == 20 * 576**2
    assert StatisticsAccumulator(geometry, StatisticsOptions(memory=need)).full
    assert not StatisticsAccumulator(geometry, StatisticsOptions(memory=need - 1)).full


def test_misfits_are_named():
    geometry = ConvGeometry.of(4, 3, (3, 3))
    accumulator = StatisticsAccumulator(geometry)
    with pytest.raises(InputError, match="no patch was seen"):
        accumulator.result()
    accumulator.update(np.zeros((2, 3, 2, 9), np.float32))  # smaller than the kernel: no output position
    assert accumulator.count == 0
    with pytest.raises(InputError, match=r"shape \(N, 3, size of 2 axes\) is needed, got \(2, 4, 9, 9\)"):
        accumulator.update(np.zeros((2, 4, 9, 9), np.float32))
    with pytest.raises(OptionError, match="groups = 2"):
        StatisticsAccumulator(ConvGeometry.of(4, 4, (3, 3), groups=2))
    with pytest.raises(OptionError, match="positions per image"):
        StatisticsOptions(positions=0)


@pytest.mark.parametrize("values", [np.nan, np.inf, 0.0, 7.0])
def test_inputs_that_say_nothing_are_named(values):
    geometry = ConvGeometry.of(6, 3, (3, 3))
    accumulator = StatisticsAccumulator(geometry)
    accumulator.update(np.full((2, 3, 9, 9), values, np.float32))
    expected = "never vary" if np.isfinite(values) else "not finite"
    with pytest.raises(
        ModelError, match=f"conv: its (inputs|statistics).*{expected}|conv: its inputs {expected}"
    ):
        SCHEMES["spatial"].factorize(make_layer(geometry), "hw", accumulator.result())


def test_statistics_of_another_layer_are_refused():
    statistics = gathered(ConvGeometry.of(1, 3, (3, 3)))
    with pytest.raises(ModelError, match="the layer has 36; gather them for this model"):
        SCHEMES["spatial"].factorize(make_layer(ConvGeometry.of(5, 4, (3, 3))), "hw", statistics)


def test_dead_channels_leave_the_fit_solvable():
    geometry = ConvGeometry.of(8, 6, (3, 3), pad=1)
    accumulator = StatisticsAccumulator(geometry)
    for x in batches(geometry):
        x[:, 2:4] = 0
        accumulator.update(x)
    statistics, layer = accumulator.result(), make_layer(geometry)
    for name, scheme in SCHEMES.items():
        fitted = scheme.factorize(layer, scheme.variants(geometry)[0], statistics)
        assert fitted.ridge >= FitOptions().ridge, name
        factors = fitted.factors(fitted.max_ranks)
        assert all(np.isfinite(conv.weight).all() for conv in factors.convs)
        assert energy_error(layer, factors, statistics) < 1e-6
        # Channels that the data never showed alive are kept as well as the ranks allow: here fully.
        assert energy_error(layer, factors) < 1e-6


@pytest.mark.parametrize("name", ["spatial", "input", "tucker2"])
@pytest.mark.parametrize("geometry", GEOMETRIES[:4])
def test_second_pass_equals_the_full_covariance(name, geometry):
    scheme, layer = SCHEMES[name], make_layer(geometry)

    def second_pass(layer: ConvLayer, pair: Factors) -> FactorStatistics:
        accumulator = FactorAccumulator(layer, pair, StatisticsOptions(positions=10**6))
        for x in batches(geometry):
            accumulator.update(x)
        return accumulator.result()

    full, strips = gathered(geometry), gathered(geometry, StatisticsOptions(memory=0, positions=10**6))
    for variant in scheme.variants(geometry):
        limit = tuple(max(1, 2 * r // 3) for r in scheme.full_rank(geometry, variant))
        one = scheme.factorize(layer, variant, full, max_ranks=limit)
        two = scheme.factorize(layer, variant, strips, max_ranks=limit, second_pass=second_pass)
        np.testing.assert_allclose(two.energy_errors(), one.energy_errors(), rtol=2e-3, atol=1e-6)
        ranks = tuple(max(1, r // 2) for r in limit)
        errors = [energy_error(layer, f.factors(ranks), full) for f in (one, two)]
        assert errors[1] == pytest.approx(errors[0], rel=2e-3, abs=1e-6)
        assert errors[0] == pytest.approx(one.energy_error(ranks), rel=1e-2, abs=1e-6)
        biases = [f.factors(ranks).convs[-1].bias for f in (one, two)]
        np.testing.assert_allclose(*biases, atol=1e-2)


def test_second_pass_adds_the_same_ridge():
    geometry = GEOMETRIES[0]
    layer, options = make_layer(geometry), FitOptions(ridge=1e-2)
    positions = StatisticsOptions(positions=10**6)

    def second_pass(layer: ConvLayer, pair: Factors) -> FactorStatistics:
        accumulator = FactorAccumulator(layer, pair, positions)
        for x in batches(geometry):
            accumulator.update(x)
        return accumulator.result()

    strips = gathered(geometry, StatisticsOptions(memory=0, positions=10**6))
    one = SCHEMES["spatial"].factorize(layer, "hw", gathered(geometry), max_ranks=(12,), options=options)
    two = SCHEMES["spatial"].factorize(
        layer, "hw", strips, max_ranks=(12,), options=options, second_pass=second_pass
    )
    assert one.ridge == two.ridge == 1e-2
    np.testing.assert_allclose(two.energy_errors(), one.energy_errors(), rtol=1e-4)


def test_without_a_covariance_what_is_impossible_is_said():
    geometry = GEOMETRIES[0]
    strips = gathered(geometry, StatisticsOptions(memory=0, positions=10**6))
    with pytest.raises(OptionError, match="no second pass"):
        SCHEMES["spatial"].factorize(make_layer(geometry), "hw", strips)
    with pytest.raises(OptionError, match="no second pass"):
        SCHEMES["channel"].factorize(make_layer(geometry), "", strips)
    factors = SCHEMES["channel"].factorize(make_layer(geometry), "").factors((1,))
    with pytest.raises(OptionError, match="no full covariance to measure with"):
        energy_error(make_layer(geometry), factors, strips)


def test_predicted_error_is_that_of_convolutions_over_the_same_inputs():
    geometry = ConvGeometry.of(12, 8, (3, 3), stride=2, pad=1)
    layer = make_layer(geometry)
    statistics = gathered(geometry)
    for name, scheme in SCHEMES.items():
        variant = scheme.variants(geometry)[0]
        ranks = tuple(r // 2 for r in scheme.full_rank(geometry, variant))
        fitted = scheme.factorize(layer, variant, statistics)
        factors = fitted.factors(ranks)
        original = (FactorConv(geometry, layer.weight, layer.bias),)
        outputs = []
        for convs in (original, factors.convs):
            parts = [convolve(x.astype(np.float64), convs) for x in batches(geometry)]
            outputs.append(np.concatenate([np.moveaxis(y, 1, -1).reshape(-1, 12) for y in parts]))
        expected, actual = outputs
        lost = np.sum((expected - actual) ** 2) / np.sum((expected - expected.mean(axis=0)) ** 2)
        assert fitted.energy_error(ranks) == pytest.approx(lost, rel=1e-3), name
        np.testing.assert_allclose(actual.mean(axis=0), expected.mean(axis=0), atol=1e-4)


def test_strips_are_sums_of_blocks():
    geometry = ConvGeometry.of(1, 2, (3, 2))
    C = np.random.default_rng(0).standard_normal((12, 12))
    blocks = C.reshape(2, 3, 2, 2, 3, 2)
    first, second = strips_of(C, geometry)
    np.testing.assert_allclose(first.reshape(2, 3, 2, 3), sum(blocks[:, :, w, :, :, w] for w in range(2)))
    np.testing.assert_allclose(second.reshape(2, 2, 2, 2), sum(blocks[:, h, :, :, h, :] for h in range(3)))


def test_saved_statistics_come_back_equal(tmp_path):
    geometry = GEOMETRIES[0]
    layers = {
        "a/b": gathered(geometry),
        "ä": gathered(geometry, StatisticsOptions(memory=0, positions=10**6)),
    }
    path = tmp_path / "statistics.npz"
    save_statistics(path, SavedStatistics(layers, {"inputs": "dead leaves, seed 0"}))
    save_statistics(path, SavedStatistics(layers, {"inputs": "dead leaves, seed 0"}))
    assert [p.name for p in tmp_path.iterdir()] == ["statistics.npz"]
    loaded = load_statistics(path)
    assert dict(loaded.provenance) == {"inputs": "dead leaves, seed 0"}
    assert list(loaded.layers) == ["a/b", "ä"]
    for name, expected in layers.items():
        found = loaded.layers[name]
        assert found.count == expected.count
        np.testing.assert_array_equal(found.mean, expected.mean)
        for one, other in zip(found.strips, expected.strips, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)
        if expected.covariance is None:
            assert found.covariance is None
        else:
            np.testing.assert_array_equal(found.covariance, expected.covariance)


def test_other_files_are_not_statistics(tmp_path):
    with pytest.raises(FormatError, match="No such file"):
        load_statistics(tmp_path / "none.npz")
    text = tmp_path / "text.npz"
    text.write_text("hello")
    other = tmp_path / "other.npz"
    np.savez(other, x=np.zeros(3))
    truncated = tmp_path / "truncated.npz"
    save_statistics(truncated, SavedStatistics({"a": gathered(GEOMETRIES[0])}, {}))
    truncated.write_bytes(truncated.read_bytes()[:-100])
    for path in (text, other, truncated):
        with pytest.raises(FormatError, match=r"is (not a|no) file of statistics.*; calibrate again"):
            load_statistics(path)
