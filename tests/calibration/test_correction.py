"""Correction in sequence against ordinary least squares on what both networks give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.small import write

import twofold
from twofold.calibration import correction
from twofold.calibration.correction import gather_remainders, samples_needed
from twofold.calibration.gather import CalibrationOptions, gather
from twofold.calibration.inputs import from_arrays
from twofold.calibration.runners import runner_for
from twofold.conv import ConvLayer
from twofold.lowrank import LayerFit, composed, corrected_stack

pytest.importorskip("torch")


@pytest.fixture
def setting(tmp_path):
    """Two layers, both decomposed coarsely, and what is needed to correct the second."""
    model = twofold.load(*write(tmp_path))
    runner = runner_for(model, ("two",))
    layers = [layer for layer in model.convolutions() if isinstance(layer, ConvLayer)][:2]
    inputs = from_arrays(np.random.default_rng(0).normal(size=(12, 16, 12, 12)), runner.inputs)
    statistics = gather(runner, layers, inputs, CalibrationOptions()).layers
    stacks = [
        (layer, LayerFit(layer, statistics[layer.name]).factorize("spatial", "hw", (16,)).factors((10,)))
        for layer in layers
    ]
    return runner, inputs, stacks


def outputs(inputs, weight, bias, watch):
    """Outputs of a 3x3 convolution with pad 1 for the inputs of `watch`: (positions, C_out)."""
    x = np.concatenate([next(iter(watch(batch))).inputs for batch in inputs]).astype(np.float64)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3)).transpose(0, 2, 3, 1, 4, 5)
    return windows.reshape(-1, 64 * 9) @ weight.astype(np.float64).reshape(64, -1).T + bias


def test_the_last_factor_becomes_the_least_squares_fit(setting):
    runner, inputs, stacks = setting
    seen = gather_remainders(runner, stacks, inputs, CalibrationOptions())
    (one, first), (two, pair) = stacks
    fixed = corrected_stack(two, pair, seen["two"], ridge=1e-9)
    wanted = outputs(inputs, two.weight, two.bias, lambda batch: runner.record_inputs([two], batch))
    lost = [
        wanted
        - outputs(
            inputs,
            composed(stack),
            stack.convs[-1].bias,
            lambda batch: runner.record_inputs([two], batch, stacks=[(one, first)]),
        )
        for stack in (pair, fixed)
    ]
    assert np.mean(lost[1] ** 2) < 0.98 * np.mean(lost[0] ** 2)
    assert np.abs(lost[1].mean(axis=0)).max() < 1e-3  # the bias makes the means equal
    assert seen["two"].remainder_energy == pytest.approx(lost[0].var(axis=0).sum(), rel=1e-3)


def test_a_large_ridge_leaves_the_weight_and_corrects_the_bias(setting):
    runner, inputs, stacks = setting
    seen = gather_remainders(runner, stacks, inputs, CalibrationOptions())
    two, pair = stacks[1]
    fixed = corrected_stack(two, pair, seen["two"], ridge=1e9)
    np.testing.assert_allclose(fixed.convs[1].weight, pair.convs[1].weight, atol=1e-6)
    assert np.abs(fixed.convs[1].bias - pair.convs[1].bias).max() > 1e-3


def test_without_changes_before_nothing_is_left_to_correct(setting):
    """The first layer sees what it saw, and its factors are the best already."""
    runner, inputs, stacks = setting
    seen = gather_remainders(runner, stacks, inputs, CalibrationOptions())
    one, pair = stacks[0]
    fixed = corrected_stack(one, pair, seen["one"], ridge=1e-6)
    np.testing.assert_allclose(fixed.convs[1].weight, pair.convs[1].weight, atol=2e-3)


def test_as_many_positions_as_the_last_convolution_needs(setting, monkeypatch):
    """Few values go into it, far fewer than a patch of the layer has."""
    runner, inputs, stacks = setting
    given, accumulator = [], correction.FactorAccumulator

    def watched(layer, stack, options):
        given.append(options)
        return accumulator(layer, stack, options)

    monkeypatch.setattr(correction, "FactorAccumulator", watched)
    monkeypatch.setattr(correction, "FEWEST_POSITIONS", 1)
    gather_remainders(runner, stacks, inputs, CalibrationOptions())
    gather_remainders(runner, stacks, inputs, CalibrationOptions(positions=7))
    seen = stacks[0][1].convs[-1].weight[0].size
    assert [one.positions for one in given[:2]] == [-(-16 * seen // 12)] * 2
    assert [one.positions for one in given[2:]] == [7, 7]


def test_as_many_samples_as_small_maps_need(setting):
    """A fit to fewer rows than it has numbers is worse than none."""
    _, _, stacks = setting
    seen = max(stack.convs[-1].weight[0].size for _, stack in stacks)
    assert samples_needed(stacks, CalibrationOptions()) == -(-16 * seen // 144)
    assert samples_needed(stacks, CalibrationOptions(positions=3)) == -(-16 * seen // 3)
    unknown = [(replace(layer, input_sizes=()), stack) for layer, stack in stacks]
    assert samples_needed(unknown, CalibrationOptions()) == 16 * seen
    assert samples_needed((), CalibrationOptions()) == 0
