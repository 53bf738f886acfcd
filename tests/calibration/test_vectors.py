"""Layers with one tap over the memory limit: fitted to data as well as with their covariance."""

from __future__ import annotations

import numpy as np
import pytest

import twofold
from twofold.calibration.gather import CalibrationOptions
from twofold.calibration.grouped import accumulator, factor_accumulator
from twofold.calibration.shrink import shrinkage, shrunk
from twofold.calibration.statistics import StatisticsAccumulator, StatisticsOptions
from twofold.calibration.store import SavedStatistics, load_statistics, save_statistics
from twofold.calibration.vectors import _KEPT, VectorAccumulator
from twofold.conv import ConvGeometry, ConvLayer
from twofold.errors import OptionError
from twofold.lowrank import SCHEMES, energy_error

LESS = StatisticsOptions(memory=0, positions=10**6)


def vectors(count: int, d: int, seed: int = 0) -> np.ndarray:
    """Vectors (1, d, count) whose values depend on each other, with a mean."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((d, d)) * np.linspace(1, 0, d) ** 2
    return (mixing @ rng.standard_normal((d, count)) + rng.standard_normal((d, 1)))[None].astype(np.float32)


def both(geometry, batches):
    """The statistics with and without a covariance."""
    full, less = StatisticsAccumulator(geometry, StatisticsOptions(None, 10**6)), accumulator(geometry, LESS)
    assert isinstance(less, VectorAccumulator)
    for x in batches:
        full.update(x)
        less.update(x)
    return full.result(), less.result()


@pytest.mark.parametrize(("count", "tolerance"), [(5, 1e-6), (40, 1e-6), (_KEPT, 1e-6), (3000, 0.05)])
def test_the_moments_are_those_of_the_covariance(count, tolerance):
    x = vectors(count, 24)
    full, less = both(ConvGeometry.linear(7, 24), np.array_split(x, 3, axis=2))
    S = full.covariance
    assert less.covariance is None
    assert less.count == full.count == count
    np.testing.assert_allclose(less.mean, full.mean, atol=1e-5)
    np.testing.assert_allclose(less.strips[0], np.diagonal(S), rtol=1e-4)
    wanted = shrinkage(count, 24, float(np.trace(S)), float(np.sum(S**2)))
    assert 0 < wanted < 1
    assert less.shrinkage == pytest.approx(wanted, rel=tolerance + 1e-4)


def test_vectors_are_kept_from_all_over():
    gathering = VectorAccumulator(ConvGeometry.linear(2, 3), LESS)
    rows = np.zeros((1, 3, 10_000), np.float32)
    rows[0, 0] = np.arange(10_000)
    for x in np.array_split(rows, 17, axis=2):
        gathering.update(x)
    numbers = np.array([row[0] for row in gathering._kept]) - gathering._kept[0][0]
    assert _KEPT // 2 < len(numbers) <= _KEPT
    np.testing.assert_array_equal(numbers, np.arange(len(numbers)) * numbers[1])


@pytest.mark.parametrize(
    "geometry",
    [ConvGeometry.linear(9, 30), ConvGeometry.linear(40, 30), ConvGeometry.of(9, 30, (1, 1))],
    ids=str,
)
@pytest.mark.parametrize("count", [12, 600])
def test_another_pass_fits_a_layer_as_its_covariance_would(geometry, count):
    layer = ConvLayer("fc", geometry, np.random.default_rng(1).standard_normal(geometry.weight_shape))
    x = vectors(count, 30).reshape(1, 30, count, *(1,) * (len(geometry.kernel) - 1))
    full, less = both(geometry, [x])

    def second_pass(one, pair):
        gathering = factor_accumulator(one, pair, LESS)
        gathering.update(x)
        return gathering.result()

    full = shrunk(full) if geometry.layer_type == "linear" else full
    one = SCHEMES["channel"].factorize(layer, "", full)
    two = SCHEMES["channel"].factorize(layer, "", less, second_pass=second_pass)
    np.testing.assert_allclose(two.energy_errors(), one.energy_errors(), rtol=1e-3, atol=1e-5)
    for rank in (2, 5):
        errors = [energy_error(layer, fitted.factors((rank,)), full) for fitted in (one, two)]
        assert errors[1] == pytest.approx(errors[0], rel=1e-3)
    blind = energy_error(layer, SCHEMES["channel"].factorize(layer, "").factors((5,)), full)
    assert errors[0] < 0.9 * blind


@pytest.mark.parametrize("geometry", [ConvGeometry.linear(4, 6), ConvGeometry.of(4, 6, (1, 1), groups=2)])
def test_a_file_keeps_them(geometry, tmp_path):
    gathering = accumulator(geometry, LESS)
    gathering.update(np.random.default_rng(0).standard_normal((20, 6, 1, 1)[: 2 + len(geometry.kernel)]))
    found = gathering.result()
    save_statistics(tmp_path / "s.npz", SavedStatistics({"one": found}, {}))
    again = load_statistics(tmp_path / "s.npz").layers["one"]
    assert again.covariance is None
    assert again.shrinkage == found.shrinkage
    np.testing.assert_array_equal(again.mean, found.mean)
    np.testing.assert_array_equal(again.strips[0], found.strips[0])


def test_a_module_is_decomposed_within_the_limit(tmp_path):
    """The covariance of 256 inputs is too large; that of 32 outputs is not, but that of 128 is."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(256, 32, bias=False), torch.nn.ReLU(), torch.nn.Linear(32, 128, bias=False),
        torch.nn.ReLU(), torch.nn.Linear(128, 128, bias=False),
    )  # fmt: skip
    data = np.random.default_rng(0).standard_normal((64, 16)) @ np.random.default_rng(1).standard_normal(
        (16, 256)
    )
    ranks = {"0": 8, "4": 16}
    how = {"data": data.astype(np.float32), "ranks": ranks, "schemes": "channel"}
    bare = {"gradients": False}
    found = twofold.decompose(
        module,
        calibration=CalibrationOptions(memory=20 * 32**2, **bare),
        statistics=tmp_path / "s.npz",
        **how,
    )
    full = twofold.decompose(module, calibration=CalibrationOptions(**bare), **how)
    blind = twofold.decompose(module, no_data=True, ranks=ranks, schemes="channel")
    errors = {
        name: [choice.relative_error for choice in result.plan.choices]
        for name, result in (("found", found), ("full", full), ("blind", blind))
    }
    assert errors["found"][0] == pytest.approx(errors["full"][0], rel=1e-3)
    assert errors["full"][1] != errors["blind"][1] == pytest.approx(errors["found"][1])
    assert found.plan.calibration["weights_alone"] == ["4"]
    assert "1 layers are over the memory limit of 1.9e-05 GiB and take another pass" in str(found.plan.notes)
    assert "are too large for another pass, so they are fitted to their weights alone: 4" in str(
        found.plan.notes
    )
    again = found.plan.apply(module)
    again.load_state_dict(found.model.module.state_dict())
    assert again[0][1].bias is not None
    # Its mean, too, where the correction in sequence was taken.
    assert (again[4][1].bias is not None) is ("4" in found.plan.calibration["means_corrected"])


def test_a_layer_whose_strips_are_too_large_takes_another_pass(monkeypatch):
    """As nets on audio have: long on one axis, with many channels."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(16, 32, (16, 1), bias=False), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3, bias=False)
    )
    rng = np.random.default_rng(0)
    mixed = np.einsum("cd,ndhw->nchw", rng.normal(size=(16, 4)), rng.normal(size=(24, 4, 40, 5)))
    how = {"data": mixed.astype(np.float32), "ranks": {"0": 16, "2": 16}, "schemes": "channel"}
    bare = {"gradients": False}
    full = twofold.decompose(module, calibration=CalibrationOptions(**bare), **how)
    blind = twofold.decompose(module, no_data=True, ranks=how["ranks"], schemes="channel")
    # Strips of the first take 20 * (256**2 + 16**2) bytes; its outputs 16 * 32**2.
    monkeypatch.setattr("twofold.calibration.gather.free_memory", lambda: 2 * 20 * 200**2)
    less = CalibrationOptions(memory=16 * 32**2, **bare)
    found = twofold.decompose(module, calibration=less, **how)
    errors = {
        name: [choice.relative_error for choice in result.plan.choices]
        for name, result in (("found", found), ("full", full), ("blind", blind))
    }
    assert errors["found"][0] == pytest.approx(errors["full"][0], rel=0.02)
    assert errors["full"][0] < 0.9 * errors["blind"][0]
    with pytest.raises(OptionError, match="over the memory limit: leave such layers to the scheme 'channel'"):
        twofold.decompose(module, calibration=less, **{**how, "schemes": "input"})
    # The schemes that compete by default: what needs the strips stays out, from the cache, too.
    for _ in range(2):
        beside = twofold.decompose(module, calibration=less, data=how["data"], macs=0.6, multiple=1, only="0")
        assert [choice.scheme for choice in beside.plan.choices] == ["channel"]
        assert any("of all schemes only 'channel' fits into it: 0" in note for note in beside.plan.notes)
