"""Files that others change, shorten or exchange while a model is in use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tests.small import write

from twofold.errors import FormatError, OutputError
from twofold.files import source as module
from twofold.files.source import hashed_source, read_source
from twofold.formats.caffe.caffemodel import read_weights
from twofold.formats.caffe.model import CaffeModel


@pytest.fixture
def small(tmp_path):
    (tmp_path / "in").mkdir()
    return [Path(path) for path in write(tmp_path / "in")]


def same_values(one: CaffeModel, other: CaffeModel) -> bool:
    pairs = zip(one.convolutions(), other.convolutions(), strict=True)
    return all(np.array_equal(a.weight, b.weight) for a, b in pairs)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("shorter", [False, True])
def test_a_file_that_was_changed_in_place_is_named_and_nothing_is_written(tmp_path, small, which, shorter):
    model, path = CaffeModel.load(*small), small[which]
    before = model.sources()
    if shorter:
        os.truncate(path, 50)
    else:
        with path.open("r+b") as file:
            file.seek(60)
            file.write(b"\xff" * 16)
    with pytest.raises(
        OutputError, match=rf"{path.name}: was changed while it was in use; nothing was written"
    ):
        model.save(tmp_path / "out" / "a", tmp_path / "out" / "b")
    assert not (tmp_path / "out").exists()
    assert model.sources() == before  # what was read, not what is there now


@pytest.mark.parametrize("gone", [False, True])
def test_a_file_in_the_place_of_one_that_was_read_does_no_harm(tmp_path, small, gone):
    """As a result that is written over its own input."""
    model = CaffeModel.load(*small)
    for path in small:
        if gone:
            path.unlink()
        else:
            (tmp_path / "new").write_bytes(b"something else")
            (tmp_path / "new").replace(path)
    model.save(tmp_path / "a.prototxt", tmp_path / "b.caffemodel")
    assert same_values(CaffeModel.load(tmp_path / "a.prototxt", tmp_path / "b.caffemodel"), model)


def test_hdf5_weights_stay_on_disk_and_are_hashed(tmp_path, small):
    h5py = pytest.importorskip("h5py")
    model = CaffeModel.load(*small)
    path = tmp_path / "net.caffemodel.h5"
    with h5py.File(path, "w") as file:
        for layer in model.weights.layers:
            for index, blob in enumerate(layer.blobs):
                file[f"data/{layer.name}/{index}"] = blob.array()
    loaded = CaffeModel.load(small[0], path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(OutputError, match=r"net\.caffemodel\.h5: was changed while it was in use"):
        loaded.save(tmp_path / "out.prototxt", tmp_path / "out.h5")
    path.unlink()
    with pytest.raises(OutputError, match=r"net\.caffemodel\.h5: is gone"):
        loaded.save(tmp_path / "out.prototxt", tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(bytes(100))
    status, calls = os.fstat, []

    def fstat(descriptor):
        calls.append(1)
        if len(calls) % 2 == 0:
            os.truncate(path, 40)
        return status(descriptor)

    monkeypatch.setattr(module.os, "fstat", fstat)
    for read in (read_source, hashed_source):
        path.write_bytes(bytes(100))
        with pytest.raises(FormatError, match=r"net\.caffemodel: was changed while it was read"):
            read(path)


def test_weights_that_no_protobuf_can_hold_are_not_read(tmp_path):
    path = tmp_path / "net.caffemodel"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(FormatError, match="has 3221225472 bytes, and such a file has at most 2147483647"):
        read_weights(path)
