"""Covariances of few samples are nearer to the truth when they are shrunk, and those of many stay."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.calibration.grouped import accumulator
from twofold.calibration.shrink import shrunk
from twofold.calibration.statistics import StatisticsAccumulator, StatisticsOptions
from twofold.conv import ConvGeometry

CONV = ConvGeometry(c_in=8, c_out=8, kernel=(3, 3), stride=(1, 1), dilation=(1, 1), pad=((0, 0), (0, 0)))


def _pictures(count: int, seed: int) -> np.ndarray:
    """Smooth pictures of correlated channels, each of a brightness of its own."""
    rng = np.random.default_rng(seed)
    mix = np.eye(8) + 0.3 * np.random.default_rng(0).normal(size=(8, 8))
    x = rng.normal(size=(count, 8, 14, 14))
    x = (x[..., 1:, 1:] + x[..., :-1, 1:] + x[..., 1:, :-1] + x[..., :-1, :-1]) / 2
    x = np.einsum("ab,nbhw->nahw", mix, x) * rng.uniform(0.3, 2, size=(count, 1, 1, 1))
    return x.astype(np.float32)


def _seen(pictures: np.ndarray, geometry: ConvGeometry = CONV, batch: int = 2):
    found = accumulator(geometry)
    for start in range(0, len(pictures), batch):
        found.update(pictures[start : start + batch])
    return found.result()


def _distance(S: np.ndarray, truth: np.ndarray) -> float:
    """Apart from the scale, which a covariance of few pictures cannot tell."""
    return float(np.linalg.norm(S / np.trace(S) - truth / np.trace(truth)))


def test_few_pictures_come_nearer_to_the_truth() -> None:
    truth = _seen(_pictures(2000, 1), batch=50).covariance
    few = _seen(_pictures(6, 2))
    assert truth is not None
    assert few.covariance is not None
    after = shrunk(few, CONV).covariance
    assert after is not None
    assert _distance(after, truth) < 0.6 * _distance(few.covariance, truth)
    assert np.trace(after) == pytest.approx(np.trace(few.covariance))
    assert np.linalg.eigvalsh(after).min() > 0


def test_many_pictures_change_little() -> None:
    many = _seen(_pictures(2000, 1), batch=50)
    after = shrunk(many, CONV).covariance
    assert after is not None
    assert many.covariance is not None
    assert np.linalg.norm(after - many.covariance) < 0.02 * np.linalg.norm(many.covariance)


def test_strips_are_those_of_the_shrunk_covariance() -> None:
    after = shrunk(_seen(_pictures(6, 2)), CONV)
    assert after.covariance is not None
    tensor = after.covariance.reshape(8, 3, 3, 8, 3, 3)
    np.testing.assert_allclose(after.strips[0], np.einsum("aijbkj->aibk", tensor).reshape(24, 24))


def test_positions_of_one_picture_count_less_than_independent_ones() -> None:
    varied = _seen(_pictures(40, 3))
    rng = np.random.default_rng(4)
    point = ConvGeometry(c_in=8, c_out=8, kernel=(1, 1), stride=(1, 1), dilation=(1, 1), pad=((0, 0), (0, 0)))
    independent = _seen(rng.normal(size=(40, 8, 13, 13)).astype(np.float32), point)
    assert varied.independent < 0.3 * varied.count
    assert independent.independent > 0.5 * independent.count


def test_groups_are_shrunk_each_by_itself() -> None:
    grouped = ConvGeometry(
        c_in=16, c_out=16, kernel=(3, 3), stride=(1, 1), dilation=(1, 1), pad=((0, 0), (0, 0)), groups=2
    )
    pictures = np.concatenate([_pictures(6, 2), _pictures(6, 2)], axis=1)
    after = shrunk(_seen(pictures, grouped), grouped)
    alone = shrunk(_seen(_pictures(6, 2)), CONV)
    assert after.covariance is not None
    assert alone.covariance is not None
    np.testing.assert_allclose(after.covariance[1], alone.covariance)
    np.testing.assert_allclose(after.strips[0][0], alone.strips[0])


def test_no_covariance_nothing_to_shrink() -> None:
    found = StatisticsAccumulator(CONV, StatisticsOptions(memory=0))
    found.update(_pictures(4, 1))
    assert shrunk(found.result(), CONV).covariance is None
