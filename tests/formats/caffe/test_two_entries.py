"""Two entries of one name in a caffemodel: Caffe loads one after the other, so that the last one counts."""

from __future__ import annotations

import numpy as np
import pytest
from tests.small import NET, assert_close, image, opencv, random_blobs, write

import twofold
from twofold.caffe_torch import to_torch
from twofold.formats.caffe.caffemodel import NewLayer, create_weights, read_weights

torch = pytest.importorskip("torch")


def run(model) -> np.ndarray:
    with torch.no_grad():
        return next(iter(to_torch(model).eval()(torch.from_numpy(image())).values())).numpy()


@pytest.fixture
def twice(tmp_path):
    """A model with an entry of zeros for `two` before the right one, and what Caffe computes with it."""
    wanted = opencv(*write(tmp_path), image())[0]
    blobs = random_blobs(NET)
    entries = [NewLayer(name, "Convolution", tuple(of)) for name, of in blobs.items()]
    zeros = NewLayer("two", "Convolution", tuple(np.zeros_like(blob) for blob in blobs["two"]))
    with (tmp_path / "net.caffemodel").open("wb") as stream:
        create_weights([zeros, *entries]).write(stream)
    return twofold.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel"), wanted


def test_the_last_entry_is_run_compared_and_factored(twice):
    model, wanted = twice
    assert_close(run(model), wanted)
    full = twofold.decompose(model, ranks={"*": "full"}, schemes="spatial", no_data=True)
    assert_close(run(full.model), wanted)
    assert twofold.compare(model, full.model).outputs[0].error < 1e-4


def test_both_entries_are_replaced(twice, tmp_path):
    model, wanted = twice
    full = twofold.decompose(model, ranks={"*": "full"}, schemes="spatial", no_data=True)
    full.model.save(tmp_path / "new.prototxt", tmp_path / "new.caffemodel")
    written = read_weights(tmp_path / "new.caffemodel")
    assert not written.entries("two")
    assert_close(opencv(tmp_path / "new.prototxt", tmp_path / "new.caffemodel", image())[0], wanted)


def test_it_is_said_which_entry_counts_and_that_opencv_takes_another(twice, tmp_path):
    model, wanted = twice
    (said,) = model.notes
    assert "net.caffemodel: weights of layer 'two' are there more than once: the last count" in said
    assert "OpenCV takes the first" in said
    of_opencv = opencv(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", image())[0]
    assert np.abs(of_opencv - wanted).max() > 0.1 * np.abs(wanted).max()
