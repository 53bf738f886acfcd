import time
from itertools import pairwise

import numpy as np
import pytest

from twofold.calibration.images import ImageOptions
from twofold.calibration.synthetic import ValueRange, dead_leaves, synthetic_inputs
from twofold.errors import InputError, OptionError


def spectral_slope(images):
    """Slope of log power over log frequency, averaged over directions and images (N, S, S)."""
    side = images.shape[-1]
    window = np.hanning(side)
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    power = np.abs(np.fft.fft2(centred * window[:, None] * window)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    edges = np.geomspace(0.01, 0.25, 12)
    rings = [(frequency >= low) & (frequency < high) for low, high in pairwise(edges)]
    level = [power[:, ring].mean() for ring in rings]
    return np.polyfit(np.log([frequency[ring].mean() for ring in rings]), np.log(level), 1)[0]


@pytest.fixture(scope="module")
def leaves():
    return dead_leaves(8, 3, (256, 256), seed=1)


def test_values_fill_the_range_and_nothing_is_left_unpainted(leaves):
    assert leaves.dtype == np.float32
    assert leaves.min() >= 0
    assert leaves.max() <= 1
    assert 0.3 < leaves.mean() < 0.7
    assert leaves.std() > 0.15


def test_the_power_spectrum_falls_like_that_of_photographs(leaves):
    # Photographs lie between -1.6 (a rocket at night) and -3.1 with this measure; white noise at 0.
    assert -3.5 < spectral_slope(leaves.mean(axis=1)) < -2
    noise = np.random.default_rng(0).random((4, 256, 256))
    assert spectral_slope(noise) == pytest.approx(0, abs=0.2)


def test_edges_are_sparse(leaves):
    """Differences of neighbours are mostly tiny and sometimes large: kurtosis 3 would be Gaussian noise."""
    steps = np.diff(leaves.mean(axis=1), axis=2).ravel()
    assert np.mean(steps**4) / np.mean(steps**2) ** 2 > 6


def test_no_direction_and_no_place_is_preferred():
    images = dead_leaves(60, 1, (48, 48), seed=2)[:, 0]
    down, across = np.abs(np.diff(images, axis=1)).mean(), np.abs(np.diff(images, axis=2)).mean()
    assert down == pytest.approx(across, rel=0.1)
    middle, border = images[:, 12:36, 12:36], np.concatenate([images[:, :6], images[:, -6:]])
    assert middle.mean() == pytest.approx(border.mean(), abs=0.08)


def test_colours_go_together_but_differ(leaves):
    correlation = np.corrcoef(leaves.transpose(1, 0, 2, 3).reshape(3, -1))
    assert np.all(correlation[np.triu_indices(3, 1)] > 0.6)
    assert np.all(correlation[np.triu_indices(3, 1)] < 0.99)


def test_equal_seeds_give_equal_images():
    first = dead_leaves(3, 3, (32, 40), seed=7)
    np.testing.assert_array_equal(first, dead_leaves(3, 3, (32, 40), seed=7))
    np.testing.assert_array_equal(first[:2], dead_leaves(2, 3, (32, 40), seed=7))
    assert not np.array_equal(first, dead_leaves(3, 3, (32, 40), seed=8))
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize(("channels", "size"), [(1, (16, 66)), (3, (8, 200)), (4, (8, 8)), (6, (30, 9))])
def test_any_channels_and_sizes(channels, size):
    images = dead_leaves(2, channels, size)
    assert images.shape == (2, channels, *size)
    assert np.isfinite(images).all()


def test_they_are_quick():
    dead_leaves(1, 3, (320, 320))
    start = time.process_time()
    dead_leaves(4, 3, (320, 320))
    # About 0.1 s of one core; 66 of them must be a matter of seconds.
    assert time.process_time() - start < 4


def test_the_range_is_assumed_known_or_told():
    assert str(ValueRange.of(3)) == "pixels 0..255 minus (104, 117, 123) (assumed)"
    assert str(ValueRange.of(3, ImageOptions(color="rgb"))) == "pixels 0..255 minus (123, 117, 104) (assumed)"
    assert str(ValueRange.of(1)) == "pixels 0..255 (assumed)"
    assert str(ValueRange.of(3, ImageOptions(scale=1 / 128, mean=(128.0,)))) == (
        "pixels 0..255 minus (128, 128, 128), times 0.0078125"
    )
    told = ValueRange(low=-1, high=1)
    inputs = synthetic_inputs({"data": (3, 32, 32)}, count=4, values=told)
    assert np.abs(inputs.arrays["data"]).max() <= 1
    assert inputs.arrays["data"].min() < -0.5
    assert inputs.provenance.notes == ("data: 4 synthetic colour images 32x32, pixels -1..1",)


def test_mean_and_scale_of_the_model_are_used():
    options = ImageOptions(mean=(10.0, 20.0, 30.0), scale=0.5)
    plain = synthetic_inputs({"data": (3, 32, 32)}, count=2, values=ValueRange()).arrays["data"]
    mapped = synthetic_inputs({"data": (3, 32, 32)}, count=2, options=options).arrays["data"]
    expected = (plain - np.array([10, 20, 30], np.float32).reshape(3, 1, 1)) * 0.5
    np.testing.assert_allclose(mapped, expected, atol=1e-4)


def test_every_input_of_a_net_gets_its_own():
    inputs = synthetic_inputs(
        {"a": (3, 16, 16), "b": (3, 16, 16), "c": (6, 16, 16)},
        count=2,
        values={name: ValueRange(0, 1) for name in "abc"},
    )
    assert not np.array_equal(inputs.arrays["a"], inputs.arrays["b"])
    assert "6-channel" in inputs.provenance.notes[2]
    with pytest.raises(OptionError, match="no value range for input b"):
        synthetic_inputs({"a": (3, 16, 16), "b": (3, 16, 16)}, values={"a": ValueRange()})


@pytest.mark.parametrize(
    "shape", [(10,), (3, 4, 4), (512, 32, 32), (3, None, None), (3, 8, 8, 8), (None, 32, 32)]
)
def test_what_is_no_image_is_refused_with_advice(shape):
    with pytest.raises(InputError, match="no_data=True"):
        synthetic_inputs({"data": shape})


def test_impossible_settings():
    with pytest.raises(OptionError, match="at least one"):
        synthetic_inputs({"data": (3, 32, 32)}, count=0)
    with pytest.raises(OptionError, match="2 values"):
        synthetic_inputs({"data": (3, 32, 32)}, values=ValueRange(mean=(1.0, 2.0)))
    with pytest.raises(OptionError, match="lower to a higher"):
        ValueRange(low=1, high=1)
