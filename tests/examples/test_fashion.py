"""The nets of examples/fashion: their files belong together, and they do what they were trained for."""

from __future__ import annotations

import gzip
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from twofold.finetune.data import Locator, Request, open_reader
from twofold.formats.caffe.caffemodel import read_weights
from twofold.formats.caffe.model import CaffeModel

FOLDER = Path(__file__).parents[2] / "examples" / "fashion"
NETS = ("vgg", "resnet")


@pytest.mark.parametrize("name", NETS)
def test_both_definitions_of_a_net_have_the_same_convolutions(name):
    found = {}
    for kind in ("train_val", "deploy"):
        model = CaffeModel.load(FOLDER / f"{name}_{kind}.prototxt", FOLDER / f"{name}.caffemodel")
        found[kind] = [(layer.name, layer.geometry) for layer in model.convolutions()]
    assert found["deploy"]
    assert found["train_val"] == found["deploy"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_the_shipped_nets_know_the_shipped_images(name):
    """By OpenCV; the whole test set is what the example's README speaks of."""
    with np.load(FOLDER / "test_images.npz") as file:
        images, labels = file["images"], file["labels"]
    weights = FOLDER / f"{name}.caffemodel"
    assert weights.stat().st_size <= 4e6
    assert {blob.encoding for layer in read_weights(weights).layers for blob in layer.blobs} == {
        "packed float32"
    }
    net = cv2.dnn.readNetFromCaffe(str(FOLDER / f"{name}_deploy.prototxt"), str(weights))
    net.setInput((images[:, None].astype(np.float32) - 73) * 0.0111)
    right = net.forward().argmax(1) == labels
    assert len(labels) == 500
    # 0.925 of all test images; of 500 this many but for chance (3 standard deviations are 0.035).
    assert right.mean() >= 0.89


def test_databases_hold_every_image_once(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    source.mkdir()
    parts = {}
    for part, count in (("train", 30), ("t10k", 510)):
        parts[part] = (rng.integers(256, size=(count, 28, 28)).astype(np.uint8), np.arange(count) % 10)
        for kind, values, head in (("images-idx3", parts[part][0], 16), ("labels-idx1", parts[part][1], 8)):
            content = bytes(head) + values.astype(np.uint8).tobytes()
            (source / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    script = tmp_path / "make_data.py"
    script.write_bytes((FOLDER / "make_data.py").read_bytes())
    monkeypatch.setattr(sys, "argv", ["make_data.py", str(source)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    (data, *_) = CaffeModel.load(FOLDER / "vgg_train_val.prototxt").net("TEST").layers
    reader = open_reader(Request(data, "TEST", Locator(tmp_path)), 0)
    assert len(reader.items) == 510
    batches = [reader.batch(number) for number in range(6)]
    pixels = np.concatenate([batch["data"] for batch in batches])[:510, 0] / 0.0111 + 73
    labels = np.concatenate([batch["label"] for batch in batches])[:510]
    key = {image.tobytes(): label for image, label in zip(*parts["t10k"], strict=True)}
    seen = {
        np.rint(image).astype(np.uint8).tobytes(): label for image, label in zip(pixels, labels, strict=True)
    }
    assert seen == key
    with np.load(tmp_path / "test_images.npz") as kept:
        assert np.array_equal(kept["images"], parts["t10k"][0][:500])
        assert np.array_equal(kept["labels"], parts["t10k"][1][:500])
