"""transform_param: where crops lie, which mean is subtracted, what is random and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from tests.finetune.data.requests import reader
from tests.finetune.tiny import write_lmdb

from twofold.errors import InputError
from twofold.finetune.data import Datum
from twofold.formats.caffe.blob import new_blob

#: Every pixel has a value of its own, so that a crop tells where it was cut.
IMAGE = np.arange(2 * 7 * 9, dtype=np.uint8).reshape(2, 7, 9)
MEAN = np.random.default_rng(0).normal(size=(1, 2, 7, 9)).astype(np.float32)


def layer(transform: str) -> str:
    return f"""layer {{ name: "d" type: "Data" top: "data" transform_param {{ {transform} }}
      data_param {{ source: "db" batch_size: 1 backend: LMDB }} }}"""


@pytest.fixture
def folder(tmp_path):
    write_lmdb(tmp_path / "db", [Datum.of(IMAGE, 0).serialize()])
    (tmp_path / "mean.binaryproto").write_bytes(new_blob(MEAN, "mean"))
    return tmp_path


def images(folder, transform: str, phase: str, count: int = 1) -> list[np.ndarray]:
    read = reader(folder, layer(transform), phase)
    return [read.batch(i)["data"][0] for i in range(count)]


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize(
    ("transform", "want"),
    [
        ("", IMAGE),
        ("scale: 0.5", IMAGE * 0.5),
        ("mean_value: 3 scale: 2", (IMAGE - 3.0) * 2),
        ("mean_value: 3 mean_value: 4", IMAGE - np.array([3.0, 4.0])[:, None, None]),
        ('mean_file: "mean.binaryproto"', IMAGE - MEAN[0]),
    ],
)
def test_values(folder, phase, transform, want):
    (got,) = images(folder, transform, phase)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_crop_of_a_test_is_central_and_takes_its_part_of_the_mean(folder):
    (got,) = images(folder, 'crop_size: 4 mean_file: "mean.binaryproto"', "TEST")
    np.testing.assert_allclose(got, (IMAGE - MEAN[0])[:, 1:5, 2:6], rtol=1e-6)


def test_crops_in_training_lie_anywhere_with_their_part_of_the_mean(folder):
    places = set()
    for got in images(folder, 'crop_size: 4 mean_file: "mean.binaryproto"', "TRAIN", 300):
        (match,) = [
            (y, x)
            for y in range(4)
            for x in range(6)
            if np.allclose(got, (IMAGE - MEAN[0])[:, y : y + 4, x : x + 4])
        ]
        places.add(match)
    assert len(places) == 4 * 6


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_half_of_the_images_are_mirrored(folder, phase):
    mirrored = [np.array_equal(got, IMAGE[:, :, ::-1]) for got in images(folder, "mirror: true", phase, 400)]
    plain = [np.array_equal(got, IMAGE) for got in images(folder, "mirror: true", phase, 400)]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True))
    assert 150 < sum(mirrored) < 250


def test_the_same_number_draws_the_same(folder):
    text = layer("crop_size: 4 mirror: true")
    one, other = reader(folder, text), reader(folder, text, seed=4)
    first = [one.batch(i)["data"] for i in range(20)]
    again = [reader(folder, text).batch(i)["data"] for i in range(20)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, other.batch(i)["data"]) for i, a in enumerate(first))


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        ("crop_size: 8", "an image of 7x9 is smaller than crop_size 8"),
        (
            "mean_value: 1 mean_value: 2 mean_value: 3",
            r"the mean has shape \(3, 1, 1\), an image \(2, 7, 9\)",
        ),
        ('mean_value: 1 mean_file: "mean.binaryproto"', "mean_file and mean_value together"),
        ('mean_file: "none"', "its mean_file 'none' is neither in the working directory"),
        ('mean_file: "db"', "cannot be read as a mean|neither numbers"),
        ("force_color: true force_gray: true", "force_color and force_gray together"),
    ],
)
def test_what_is_refused(folder, transform, says):
    from twofold.errors import TwofoldError

    with pytest.raises(TwofoldError, match=says) as error:
        images(folder, transform, "TRAIN")
    assert isinstance(error.value, InputError) or "db" in transform
