"""Inputs beside the images."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.calibration.companions import accompanied, images_among
from twofold.calibration.inputs import Inputs, Provenance

SHAPES = {"data": (3, 20, 30), "im_info": (3,), "rois": (5,)}


def test_images_are_found_among_the_inputs():
    assert images_among(SHAPES) == {"data": (3, 20, 30)}
    assert images_among({"x": (7,)}) == {"x": (7,)}
    assert images_among({"data": (3, 20, 30), "x": (None,)}) == {"data": (3, 20, 30), "x": (None,)}


@pytest.mark.parametrize(
    ("name", "shape", "row"),
    [
        ("im_info", (3,), [20, 30, 1]),
        ("im_info", (1, 4), [[20, 30, 1, 1]]),
        ("im_shape", (2,), [20, 30]),
        ("scale_factor", (2,), [1, 1]),
        ("cont", (), 1),
    ],
)
def test_known_inputs_have_the_values_of_their_images(name, shape, row):
    images = Inputs({"data": np.zeros((2, 3, 20, 30), np.float32)}, Provenance("images"))
    filled = accompanied(images, {name: shape, "data": (3, 20, 30)}, seed=0)
    assert list(filled.arrays) == [name, "data"]
    np.testing.assert_array_equal(filled.arrays[name], [row, row])
    assert f"{name}: takes" in filled.provenance.notes[-1]


def test_other_inputs_are_drawn():
    images = Inputs({"data": np.zeros((500, 1, 2, 2), np.float32)}, Provenance("images"))
    drawn = accompanied(images, {"data": (1, 2, 2), "z": (4,)}, seed=3).arrays["z"]
    assert drawn.shape == (500, 4)
    assert abs(drawn.mean()) < 0.1
    assert drawn.std() == pytest.approx(1, abs=0.1)
