"""One pass over the inputs against the patches cut by hand, and what it says where it cannot."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import pytest
from tests.small import write

import twofold
from twofold.calibration.gather import AnotherPass, CalibrationOptions, gather, layer_options
from twofold.calibration.inputs import from_arrays
from twofold.calibration.memory import free_memory, parse_bytes, share_out
from twofold.calibration.runners import runner_for
from twofold.calibration.statistics import patch_size
from twofold.conv import ConvLayer
from twofold.errors import InputError, OptionError
from twofold.lowrank import LayerFit

pytest.importorskip("torch")


@pytest.fixture
def setting(tmp_path):
    model = twofold.load(*write(tmp_path))
    runner = runner_for(model)
    layers = [layer for layer in model.convolutions() if isinstance(layer, ConvLayer)]
    values = np.random.default_rng(0).normal(1.0, 1.0, size=(7, 16, 12, 12)).astype(np.float32)
    return runner, layers, from_arrays(values, runner.inputs).batched(3)


def patches(images):
    """All patches of a 3x3 convolution with pad 1: (N * positions, C * 9)."""
    padded = np.pad(images.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * 9)


def test_the_moments_are_those_of_all_patches(setting):
    runner, layers, inputs = setting
    found = gather(runner, layers, inputs, CalibrationOptions())
    images = np.concatenate([runner_input["data"] for runner_input in inputs])
    rows = patches(images)
    one = found.layers["one"]
    assert one.count == len(rows)
    np.testing.assert_allclose(one.mean, rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(one.covariance, np.cov(rows.T, bias=True), atol=1e-4)
    assert set(found.layers) == {"one", "two", "out"}
    assert found.record["inputs"]["count"] == 7
    assert found.record["outputs"] == ["out"]


def test_the_metric_is_normalised_and_sees_what_the_outputs_feel(setting):
    runner, layers, inputs = setting
    found = gather(runner, layers, inputs, CalibrationOptions())
    for layer in layers:
        G = found.layers[layer.name].gradient
        assert np.trace(G) == pytest.approx(layer.geometry.c_out)
        np.testing.assert_allclose(G, G.T, atol=1e-9)
    # Behind `two` come a ReLU and a 1x1 with 5 outputs: at one position no more than 5 directions count, and
    # the ReLU only picks channels.
    values = np.linalg.eigvalsh(found.layers["out"].gradient)
    assert values[0] > 0.5  # the last layer: a random projection feels all outputs alike
    without = gather(runner, layers, inputs, CalibrationOptions(gradients=False))
    assert all(statistics.gradient is None for statistics in without.layers.values())


def test_layers_of_very_many_outputs_keep_no_metric(setting, monkeypatch):
    """It takes their square, twice over; 18,385 characters of a text recognizer took 12 GB."""
    runner, layers, inputs = setting
    monkeypatch.setattr("twofold.calibration.gather.LARGEST_METRIC", 10)
    found = gather(runner, layers, inputs, CalibrationOptions()).layers
    assert {layer.geometry.c_out: found[layer.name].gradient is None for layer in layers} == {
        64: True,
        5: False,
    }


def test_over_the_limit_another_pass_gives_the_same_fit(setting):
    runner, layers, inputs = setting
    options = CalibrationOptions(memory=1)
    found = gather(runner, layers, inputs, options)
    assert all(statistics.covariance is None for statistics in found.layers.values())
    assert "over the memory limit" in found.notes[0]
    full = gather(runner, layers, inputs, CalibrationOptions()).layers["two"]
    again = AnotherPass(runner, inputs, options)
    for scheme, variant in (("spatial", "hw"), ("channel", ""), ("input", "")):
        one = LayerFit(layers[1], full).factorize(scheme, variant, (24,))
        two = LayerFit(layers[1], found.layers["two"], second_pass=again).factorize(scheme, variant, (24,))
        np.testing.assert_allclose(two.energy_errors(), one.energy_errors(), rtol=2e-2, atol=1e-5)


def test_positions_are_drawn_by_the_seed(setting):
    runner, layers, inputs = setting
    few = CalibrationOptions(positions=9, seed=3)
    one, two = (gather(runner, layers, inputs, few).layers["one"] for _ in range(2))
    assert one.count == 7 * 9
    np.testing.assert_array_equal(one.covariance, two.covariance)
    other = gather(runner, layers, inputs, CalibrationOptions(positions=9, seed=4)).layers["one"]
    assert np.abs(other.covariance - one.covariance).max() > 1e-3


def test_values_that_are_not_finite_name_the_layer(setting):
    runner, layers, _ = setting
    huge = from_arrays(np.full((2, 16, 12, 12), 3e38, np.float32), runner.inputs)
    with pytest.raises(InputError, match=r"(one|two|out): sees values that are not finite.*no_data=True"):
        gather(runner, layers, huge, CalibrationOptions(gradients=False))


@pytest.mark.parametrize(
    ("text", "expected"), [("2G", 2 << 30), ("512MiB", 512 << 20), ("1.5k", 1536), ("100", 100)]
)
def test_amounts_of_memory(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "2X", "1e9", "0.5", "9" * 400, "9999999T"])
def test_amounts_that_are_none(text):
    with pytest.raises(OptionError, match="memory"):
        parse_bytes(text)


def test_small_layers_get_their_covariance_first(setting):
    _, layers, _ = setting
    assert free_memory() > 1 << 20
    assert share_out(layers, 1 << 40) == {"one", "two", "out"}
    assert share_out(layers, 0) == frozenset()
    assert share_out(layers, 20 * 144**2 + 8 * 64**2) == {"out", "one"}


@pytest.mark.parametrize("values", [{"memory": 0}, {"positions": 0}])
def test_options_out_of_range(values):
    with pytest.raises(OptionError):
        CalibrationOptions(**values)


def test_half_of_the_free_memory_is_for_covariances(setting, monkeypatch):
    runner, layers, inputs = setting
    needed = bisect_left(range(1 << 30), len(layers), key=lambda memory: len(share_out(layers, memory)))
    for free, over in ((2 * needed, 0), (2 * needed - 2, 1)):
        monkeypatch.setattr("twofold.calibration.gather.free_memory", lambda free=free: free)
        found = gather(runner, layers, inputs, CalibrationOptions(gradients=False))
        assert sum(one.covariance is None for one in found.layers.values()) == over


def test_gradients_are_taken_of_32_samples(setting, monkeypatch):
    runner, layers, _ = setting
    values = np.random.default_rng(0).normal(size=(96, 16, 12, 12)).astype(np.float32)
    asked = []
    watch = runner.record_inputs

    def counted(layers, batch, gradients=None, **options):
        asked.append(gradients is not None)
        return watch(layers, batch, gradients, **options)

    monkeypatch.setattr(runner, "record_inputs", counted)
    gather(runner, layers, from_arrays(values, runner.inputs).batched(1), CalibrationOptions(positions=4))
    assert (len(asked), sum(asked)) == (96, 32)
    assert asked[:4] == [True, False, False, True]  # spread over all


@pytest.mark.parametrize(("count", "positions"), [(2, 432), (4, 256), (400, 256)])
def test_positions_of_an_image_suffice_for_six_patches_per_value_of_a_patch(setting, count, positions):
    runner, layers, _ = setting
    values = np.zeros((count, 16, 12, 12), np.float32)
    inputs = from_arrays(values, runner.inputs).batched(1)
    assert patch_size(layers[0].geometry) == 144
    options = layer_options(layers[0], inputs, CalibrationOptions(), frozenset({"one"}))
    assert options.positions == positions
