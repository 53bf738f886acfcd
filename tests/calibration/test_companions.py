"""Inputs beside the images."""

from __future__ import annotations

import numpy as np
import pytest
from tests.small import NET, write

import twofold
from twofold.calibration.companions import accompanied, images_among
from twofold.calibration.images import ImageOptions
from twofold.calibration.inputs import Inputs, Provenance
from twofold.calibration.runners import runner_for
from twofold.calibration.source import CalibrationSource, calibration_inputs

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


def test_a_caffe_net_with_another_input_is_calibrated_on_synthetic_images(tmp_path):
    pytest.importorskip("torch")
    scale = (
        'layer { name: "s" type: "Scale" bottom: "out" bottom: "im_info" top: "s" scale_param { axis: 0 } }'
    )
    info = 'layer { name: "im_info" type: "Input" top: "im_info" input_param { shape { dim: 1 } } }\n'
    net = (info + NET + scale).replace("dim: 16 dim: 12", "dim: 3 dim: 12")
    model = twofold.load(*write(tmp_path, net))
    options = ImageOptions(limit=6)
    inputs = calibration_inputs(runner_for(model), CalibrationSource(image_options=options))
    assert {name: array.shape for name, array in inputs.arrays.items()} == {
        "data": (6, 3, 12, 12), "im_info": (6,),
    }  # fmt: skip
    assert set(inputs.arrays["im_info"]) == {12.0}
