"""Real networks: our numbers beside OpenCV's, an independent reader and runner of Caffe's files."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib import import_module

import cv2
import numpy as np
import pytest
import torch
from zoo.models import RealModel, model, models
from zoo.photographs import as_inputs, crops, photographs

from twofold.caffe_torch import CaffeNet, to_torch
from twofold.errors import MissingExtraError
from twofold.formats.caffe.model import CaffeModel

pytestmark = pytest.mark.models

#: Allowed difference in units of the range of a blob's values.
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def load(real: RealModel) -> CaffeModel:
    return CaffeModel.load(real.prototxt, real.caffemodel)


def run(net: CaffeNet, x: np.ndarray, *blobs: str) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        return {name: value.numpy() for name, value in net(torch.from_numpy(x), blobs=blobs).items()}


def opencv(real: RealModel, net: CaffeNet, x: np.ndarray, *blobs: str) -> dict[str, np.ndarray]:
    """The same from OpenCV, which knows a blob by the layer that writes it last."""
    # Caffe truncates the sizes of prior boxes to whole pixels (recorded in forward/priorbox_fractional),
    # OpenCV does not; hyperlpr-ssd has fractional ones.
    text = re.sub(r"(m(?:in|ax)_size: \d+)\.\d+", r"\1", real.prototxt.read_text())
    other = cv2.dnn.readNetFromCaffe(
        np.frombuffer(text.encode(), np.uint8), np.fromfile(real.caffemodel, np.uint8)
    )
    other.enableFusion(False)  # layers that are fused into others have no output
    other.setInput(x, real.input)
    writer = {top: spec.name for spec in net.definition.layers for top in spec.tops}
    return dict(zip(blobs, other.forward([writer[name] for name in blobs]), strict=True))


def image(real: RealModel, size: tuple[int, int] | None = None, count: int = 1) -> np.ndarray:
    options = real.options
    cut = crops(photographs().holdout, count, size or real.size, seed=3)
    return as_inputs(cut, options.color or "bgr", options.channel_mean(3), options.scale or 1.0)


def check(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> None:
    for name in want:
        assert got[name].shape == want[name].shape
        np.testing.assert_allclose(
            got[name], want[name], rtol=0, atol=TOLERANCE * np.ptp(want[name]), err_msg=name
        )


PLAIN = [name for name, real in models().items() if real.output != "detection_out"]


@pytest.mark.parametrize("name", PLAIN)
def test_outputs_agree_with_opencv(name):
    real = model(name)
    net = to_torch(load(real))
    x = image(real)
    blobs = tuple(dict.fromkeys((real.output, *net.outputs)))
    check(run(net, x, *blobs), opencv(real, net, x, *blobs))
    assert not net.unfilled


@pytest.mark.parametrize("name", ["res10-ssd", "hyperlpr-ssd"])
def test_detections_agree_with_opencv(name):
    real = model(name)
    net = to_torch(load(real))
    x = image(real)
    bottoms = net.definition.layers[net.layer_index("detection_out")].bottoms
    blobs = (*bottoms, "detection_out")
    got, want = run(net, x, *blobs), opencv(real, net, x, *blobs)
    check({name: got[name] for name in bottoms}, {name: want[name] for name in bottoms})
    # OpenCV fills up with rows of zeros.
    found = want["detection_out"][0, 0]
    found = found[found[:, 1] > 0]
    assert len(found) > 0
    np.testing.assert_allclose(got["detection_out"][0, 0], found, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "blob"), [("nsfw", "eltwise_stage3_block2"), ("hyperlpr-chars", "prob")])
def test_other_sizes_agree_with_opencv(name, blob):
    real = model(name)
    net = to_torch(load(real))
    height, width = real.size
    x = image(real, (height + 32, width + 56), count=2)
    check(run(net, x, blob), opencv(real, net, x, blob))


def test_the_beginning_of_a_model():
    real = model("nsfw")
    whole, part = to_torch(load(real)), to_torch(load(real), until="relu_1")
    x = image(real)
    assert part.outputs == ("conv_1",)
    assert len(part.layers) == 5
    np.testing.assert_array_equal(run(part, x, "conv_1")["conv_1"], run(whole, x, "conv_1")["conv_1"])


def test_without_torch_the_error_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[:2] == ["twofold", "caffe_torch"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'twofold\[torch\]'"):
        import_module("twofold.caffe_torch")
