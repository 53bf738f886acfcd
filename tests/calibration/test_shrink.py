"""Covariances of few samples are drawn towards simpler ones, as far as held-out samples fare better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.small import write

import twofold
from twofold.calibration.grouped import accumulator
from twofold.calibration.inputs import from_arrays
from twofold.calibration.measure import OutputErrorMetric
from twofold.calibration.runners import runner_for
from twofold.calibration.shrink import SHRINKAGES, Holdout, drawn, shrunk
from twofold.conv import ConvGeometry, ConvLayer
from twofold.lowrank import LayerFit
from twofold.lowrank.measure import composed

CONV = ConvGeometry.of(8, 8, (3, 3))


def images(count: int, seed: int, channels: int = 8, size: int = 14) -> np.ndarray:
    """Smooth images of correlated channels, each of a brightness of its own."""
    rng = np.random.default_rng(seed)
    mix = np.eye(channels) + 0.3 * np.random.default_rng(0).normal(size=(channels, channels))
    x = rng.normal(size=(count, channels, size, size))
    x = (x[..., 1:, 1:] + x[..., :-1, 1:] + x[..., 1:, :-1] + x[..., :-1, :-1]) / 2
    x = np.einsum("ab,nbhw->nahw", mix, x) * rng.uniform(0.3, 2, size=(count, 1, 1, 1))
    return x.astype(np.float32)


def seen(x: np.ndarray, geometry: ConvGeometry = CONV):
    found = accumulator(geometry)
    for start in range(0, len(x), 2):
        found.update(x[start : start + 2])
    return found.result()


def test_few_images_come_nearer_to_the_truth():
    def distance(S):
        """Apart from the scale, which a covariance of few images cannot tell."""
        return np.linalg.norm(S / np.trace(S) - truth / np.trace(truth))

    truth = seen(images(2000, 1)).covariance
    few = seen(images(6, 2))
    after = drawn(few, CONV, 0.5).covariance
    assert distance(after) < 0.8 * distance(few.covariance)
    assert np.trace(after) == pytest.approx(np.trace(few.covariance))


def test_a_product_of_channels_and_taps_stays():
    rng = np.random.default_rng(0)
    C, K = (np.cov(rng.normal(size=(n, 50))) for n in (8, 9))
    product = replace(seen(images(6, 2)), covariance=np.kron(C, K))
    for shrinkage in SHRINKAGES:
        np.testing.assert_allclose(drawn(product, CONV, shrinkage).covariance, np.kron(C, K))


def test_one_tap_is_drawn_towards_the_identity():
    point = ConvGeometry.of(8, 8, (1, 1))
    few = seen(images(6, 2), point)
    S = few.covariance
    wanted = 0.75 * S + 0.25 * np.trace(S) / 8 * np.eye(8)
    np.testing.assert_allclose(drawn(few, point, 0.25).covariance, wanted)


def test_what_sees_nothing_stays():
    nothing = seen(np.zeros((4, 8, 14, 14), np.float32))
    assert drawn(nothing, CONV, 0.5) is nothing


def test_strips_are_those_of_the_shrunk_covariance():
    after = drawn(seen(images(6, 2)), CONV, 0.5)
    tensor = after.covariance.reshape(8, 3, 3, 8, 3, 3)
    np.testing.assert_allclose(after.strips[0], np.einsum("aijbkj->aibk", tensor).reshape(24, 24))


def test_vectors_of_groups_are_shrunk_each_by_itself():
    vectors = np.random.default_rng(0).normal(size=(12, 16, 1)).astype(np.float32)
    pair, half = ConvGeometry.of(16, 16, (1,), groups=2), ConvGeometry.of(8, 8, (1,))
    both = shrunk(seen(vectors, pair))
    for group in (0, 1):
        alone = shrunk(seen(vectors[:, 8 * group : 8 * group + 8], half))
        np.testing.assert_allclose(both.covariance[group], alone.covariance)
    assert np.linalg.eigvalsh(both.covariance).min() > 0


def test_without_a_covariance_there_is_nothing_to_shrink():
    found = replace(seen(images(4, 1)), covariance=None)
    assert shrunk(found) is found


def test_the_loss_is_what_the_stack_does_to_outputs(tmp_path):
    """Against patches that are cut by brute force, of all positions instead of a draw of them."""
    pytest.importorskip("torch")
    model = twofold.load(*write(tmp_path))
    runner = runner_for(model)
    layer = next(layer for layer in model.convolutions() if isinstance(layer, ConvLayer))
    x = images(40, 3, 16, 13)
    statistics = seen(x, layer.geometry)
    stack = LayerFit(layer, statistics).factorize("spatial", "hw", (12,)).factors((12,))
    holdout = Holdout.gather(runner, [layer], from_arrays(x, runner.inputs), seed=0)[layer.name]
    found = holdout.loss(layer, stack, statistics) / len(holdout.patches)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 16 * 9)
    left = (layer.weight - composed(stack)).reshape(len(layer.weight), -1)
    wanted = (((rows - rows.mean(axis=0)) @ left.T) ** 2).sum(axis=1).mean()
    assert found == pytest.approx(wanted, rel=0.1)
    weighted = replace(statistics, gradient=2 * np.eye(64))
    assert holdout.loss(layer, stack, weighted) == pytest.approx(2 * holdout.loss(layer, stack, statistics))


@pytest.mark.slow
def test_few_samples_are_shrunk_and_unseen_ones_gain(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    model = twofold.load(*write(tmp_path))
    unseen = images(60, 99, 16, 13)
    before, few = runner_for(model), twofold.CalibrationOptions(positions=4)
    given = {"macs": 0.35, "multiple": 4, "schemes": "spatial", "refine": 0}

    def error(seed):
        x = images(16, seed, 16, 13)
        result = twofold.decompose(model, data=x, calibration=few, **given)
        measure, after = OutputErrorMetric(), runner_for(result.model, before.outputs)
        measure.add("", before.run({"data": unseen}), after.run({"data": unseen}))
        return measure.error(""), result.plan.calibration["shrunk"]

    found = [error(seed) for seed in range(4)]
    assert all(shrinkage in SHRINKAGES for _, shrinkages in found for shrinkage in shrinkages.values())
    assert any(shrinkages for _, shrinkages in found)
    monkeypatch.setattr("twofold.decomposition.factorize.SHRINKAGES", ())
    plain = [error(seed) for seed in range(4)]
    assert not any(shrinkages for _, shrinkages in plain)
    assert np.mean([e for e, _ in found]) < 0.7 * np.mean([e for e, _ in plain])
