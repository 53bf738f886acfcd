"""Tests for twofold.calibration.split."""

import numpy as np
import pytest

from twofold.calibration.inputs import Inputs, Provenance
from twofold.calibration.split import split


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def inputs(samples, **options):
    return Inputs({"data": samples}, Provenance("data", options=options))


def rows(part):
    """The positions that samples carry in their first value."""
    return [round(1e3 * float(row)) for row in part.arrays["data"].reshape(part.count, -1)[:, 0]]


def numbered(samples):
    samples = np.array(samples, np.float32)
    samples.reshape(len(samples), -1)[:, 0] = np.arange(len(samples)) / 1e3
    return samples


def crops(rng, photographs, each):
    """Crops of photographs, each with colours and a roughness of its own."""
    colour = rng.normal(size=(photographs, 1, 3, 1, 1)) * 3
    rough = np.exp(rng.normal(size=(photographs, 1, 1, 1, 1)))
    found = colour + rough * rng.normal(size=(photographs, each, 3, 12, 12))
    return numbered(found.reshape(-1, 3, 12, 12))


@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 64), (40,), (2, 8, 9, 6)])
@pytest.mark.parametrize("seed", range(5))
def test_an_eighth_spread_evenly_is_held_out_where_order_says_nothing(shape, seed):
    parts = split(inputs(numbered(np.random.default_rng(seed).normal(size=(64, *shape)))))
    assert rows(parts.holdout) == [4, 12, 20, 28, 36, 44, 52, 60]
    assert sorted(rows(parts.fitted) + rows(parts.holdout)) == list(range(64))
    assert parts.groups == (1,) * 8
    assert not parts.fitted.provenance.notes


def with_others_of_their_kind(parts, each):
    """Share of what is held out that is of a photograph of which crops are fitted to."""
    fitted = {row // each for row in rows(parts.fitted)}
    return np.mean([row // each in fitted for row in rows(parts.holdout)])


@pytest.mark.parametrize("each", [3, 4, 6, 8])
def test_crops_of_one_photograph_stand_on_one_side(each):
    shares, apart = [], []
    for seed in range(8):
        samples = crops(np.random.default_rng(seed), 72 // each, each)
        parts = split(inputs(samples))
        assert len(parts.groups) >= 2
        assert sum(parts.groups) == parts.holdout.count
        (note,) = parts.fitted.provenance.notes
        assert "inputs that follow each other are alike" in note
        shares.append(with_others_of_their_kind(parts, each))
        shuffled = samples[np.random.default_rng(seed).permutation(len(samples))]
        apart.append(with_others_of_their_kind(split(inputs(shuffled)), each))
    assert np.mean(shares) < 0.1  # two photographs that look alike may be taken for one
    assert np.mean(apart) > 0.9  # order alone tells it


def test_crops_that_twofold_cut_are_known_to_be_of_one_photograph(rng):
    samples = numbered(rng.normal(size=(96, 3, 12, 12)))  # nothing shows it
    parts = split(inputs(samples, crops=6))
    assert parts.groups == (6, 6)
    assert {row // 6 for row in rows(parts.holdout)}.isdisjoint(row // 6 for row in rows(parts.fitted))


def test_notes_of_a_melody_are_alike_by_how_rough_they_are_alone(rng):
    pitch = np.repeat(np.exp(rng.uniform(-3, 0, 16)), 4)
    sounds = np.sin(pitch[:, None] * np.arange(512) + rng.uniform(0, 6, (64, 1)))
    parts = split(inputs(numbered(sounds[:, None])))
    assert with_others_of_their_kind(parts, 4) == 0
    assert len(parts.groups) == 2


def test_a_clip_without_a_cut_is_held_out_in_one_piece(rng):
    clip = np.cumsum(rng.normal(size=(64, 3, 12, 12)), axis=0)
    parts = split(inputs(numbered(clip)))
    held = rows(parts.holdout)
    assert parts.groups == (len(held),)
    assert 8 <= len(held) <= 32
    assert held == list(range(held[0], held[0] + len(held)))
    assert "one such run is held out" in parts.fitted.provenance.notes[0]


@pytest.mark.parametrize("repeat", [np.tile, lambda x, n: np.repeat(x, n[0], axis=0)])
def test_no_input_that_is_given_twice_is_on_both_sides(rng, repeat):
    once = numbered(rng.normal(size=(32, 3, 8, 8)))
    parts = split(inputs(repeat(once, (3, 1, 1, 1))))
    assert set(rows(parts.holdout)).isdisjoint(rows(parts.fitted))
    assert (parts.holdout.count, parts.fitted.count) == (4, 84)
    assert "64 of 96 inputs are given a second time" in parts.fitted.provenance.notes[0]


def test_few_inputs_many_times_are_few(rng):
    parts = split(inputs(np.repeat(rng.normal(size=(5, 3, 8, 8)), 20, axis=0)))
    assert parts.fitted.count == 100
    assert parts.holdout.count == 64


def test_of_large_inputs_fewer_are_measured_on_and_none_of_their_kind_is_fitted(rng):
    samples = np.repeat(crops(rng, 12, 8)[:, :, :1], 16, axis=2).repeat(25, axis=3)  # 3 x 16 x 300
    samples = np.concatenate([samples] * 40, axis=2)
    parts = split(inputs(samples))
    assert parts.holdout.count <= 8
    assert with_others_of_their_kind(parts, 8) <= 0.25
    assert parts.fitted.count <= 96 - 14


@pytest.mark.parametrize("count", [32, 128])
@pytest.mark.parametrize("kind", ["one is odd", "sparse", "few values", "heavy tails", "one lit pixel"])
def test_odd_inputs_without_an_order_are_not_taken_for_runs(kind, count):
    taken = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        samples = rng.normal(size=(count, 12, 8, 8))
        if kind == "one is odd":
            samples[[0, -1][seed % 2]] *= 50
        elif kind == "sparse":
            samples = np.maximum(rng.normal(size=(count, 64, 4, 4)) - 2.5, 0)
        elif kind == "few values":
            samples = (rng.random(size=samples.shape) < 0.04).astype(float)
        elif kind == "heavy tails":
            samples *= np.exp(2 * rng.normal(size=(count, 1, 1, 1)))
        else:
            samples[:, :, :7, :7] = 0
            samples[0, 0, 0, 0] = 1
        taken += max(split(inputs(samples)).groups) > 1
    assert taken <= 1


def test_what_chance_makes_of_a_single_number_is_no_run():
    taken = 0
    for seed in range(200):
        samples = np.random.default_rng(seed).normal(size=(16, 1))
        taken += max(split(inputs(samples)).groups) > 1
    assert taken <= 4


@pytest.mark.parametrize(("photographs", "each"), [(2, 8), (2, 40), (3, 8), (5, 4), (9, 7)])
def test_images_of_many_crops_are_held_out_whole(rng, photographs, each):
    parts = split(inputs(numbered(rng.normal(size=(photographs * each, 3, 6, 6))), crops=each))
    assert with_others_of_their_kind(parts, each) == 0
    assert parts.holdout.count == sum(parts.groups)


def test_features_that_tell_nothing_and_inputs_that_hold_nothing_warn_of_nothing(rng, recwarn):
    steps = 1e3 + 1e-4 * rng.integers(0, 5, size=(40, 3, 8, 8))
    several = {"a": steps, "b": np.zeros((40, 0)), "c": 1e8 * np.ones((40, 2, 3)), "d": rng.normal(size=40)}
    parts = split(Inputs(several, Provenance("data")))
    assert parts.groups == (1,) * 5
    assert not recwarn.list
