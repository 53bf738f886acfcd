"""Caffe weights in HDF5: the same interface, Caffe's own layout, everything else kept."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from tests.formats.caffe.tiny_net import FOLDER, PARAMS, load

from twofold.errors import FormatError, MissingExtraError, ModelError
from twofold.formats.caffe.caffemodel import NewWeights, read_weights

h5py = pytest.importorskip("h5py")


def make(path, layers, **parts):
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for name, blobs in layers.items():
            group = data.create_group(name)
            for index, values in blobs.items():
                group.create_dataset(str(index), data=values)
        for name, values in parts.items():
            file[name] = values
    return path


def save(weights, path):
    with path.open("wb") as stream:
        weights.write(stream)
    return path


def contents(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: getattr(item, "shape", None)}))
    return found


STACK = (
    NewWeights("conv2_0", [np.full((2, 3, 3, 1), 0.5, np.float32)]),
    NewWeights("conv2_1", [np.full((4, 2, 1, 3), 0.25, np.float32), np.ones(4, np.float32)]),
)


def test_golden_file_equals_the_protobuf_one():
    expected, got = (load(read_weights(FOLDER / f"{name}.caffemodel")) for name in ("base", "hdf5"))
    for name, (weight, bias) in PARAMS.items():
        assert [blob.shape for blob in got[name]] == [weight, bias]
        for a, b in zip(got[name], expected[name], strict=True):
            np.testing.assert_array_equal(a, b)


def test_unedited_file_keeps_its_objects(tmp_path):
    weights = read_weights(FOLDER / "hdf5.caffemodel")
    assert weights.version == "HDF5"
    again = save(weights, tmp_path / "again.h5")
    assert contents(again) == contents(FOLDER / "hdf5.caffemodel")


def test_replace(tmp_path):
    source = make(
        tmp_path / "net.caffemodel.h5",
        {
            "conv1": {0: np.zeros((3, 1, 3, 3), "f4")},
            "conv2": {0: np.zeros((4, 3, 3, 3), "f4"), 1: np.zeros(4, "f4")},
        },
        note=np.arange(3),
    )
    with h5py.File(source, "r+") as file:
        file.attrs["by"] = "somebody"
        file["data"].attrs["kept"] = 1
        file["data/conv1"].attrs["kept"] = 2
        for name in ("conv1", "conv2"):
            file[f"diff/{name}/0"] = np.ones(1, "f4")
    edited = read_weights(source).replace({"conv2": STACK})
    path = save(edited, tmp_path / "new.caffemodel.h5")
    with h5py.File(path) as file:
        assert dict(file.attrs) == {"by": "somebody"}
        assert dict(file["data"].attrs) == {"kept": 1}
        assert dict(file["data/conv1"].attrs) == {"kept": 2}
        assert list(file["diff"]) == ["conv1"]
        np.testing.assert_array_equal(file["note"][()], np.arange(3))
        assert set(file["data"]) == {"conv1", "conv2_0", "conv2_1"}
        assert file["data/conv2_1/0"].dtype == np.float32
    again = read_weights(path)
    for entry in STACK:
        for weights in (again, edited):
            found = weights.layer(entry.name)
            for blob, values in zip(found.blobs, entry.blobs, strict=True):
                assert blob.fits(values.shape)
                np.testing.assert_array_equal(blob.array(), values)
    stream = io.BytesIO()
    read_weights(source).replace({"conv2": STACK}).write(stream)
    assert stream.getvalue() == path.read_bytes()  # equal input, equal bytes
    twice = edited.replace({"conv2_0": [NewWeights("deep", STACK[0].blobs)]})
    assert {"data/deep/0", "data/conv2_1/0"} <= contents(save(twice, tmp_path / "twice.h5")).keys()


def test_types_are_kept(tmp_path):
    source = make(tmp_path / "d.h5", {"c": {0: np.zeros((4, 3), "f8"), 1: np.zeros(4, "f2")}})
    for bias, dtype in ((1.0, np.float16), (7e4, np.float32), (1 / 3, np.float32)):
        new = NewWeights("d", [np.array([[1 / 3]]), np.array([bias], np.float32)])
        with h5py.File(save(read_weights(source).replace({"c": [new]}), tmp_path / "e.h5")) as file:
            assert file["data/d/0"][()] == 1 / 3
            assert file["data/d/1"].dtype == dtype
            assert file["data/d/1"][()] == np.float32(bias)


def test_shared_parameters_are_stored_once(tmp_path):
    """Caffe writes a shared blob with its owner only; the gap of the sharer stays a gap."""
    source = make(
        tmp_path / "s.h5", {"owner": {0: np.ones((2, 2), "f4")}, "partly": {1: np.ones(2, "f4")}, "all": {}}
    )
    weights = read_weights(source)
    weights.check()
    gap, bias = weights.layer("partly").blobs
    assert (gap.encoding, bias.shape) == ("absent", (2,))
    for use in (gap.array, lambda: gap.shape):
        with pytest.raises(FormatError, match="layer 'partly', blob 0 is not in the file"):
            use()
    assert weights.layer("all").blobs == ()
    new = [
        NewWeights("a", [np.ones((1, 2), "f4")]),
        NewWeights("b", [np.ones((2, 1), "f4"), np.ones(2, "f4")]),
    ]
    renamed = [NewWeights(f"{n.name}_", n.blobs) for n in new]
    path = save(weights.replace({"partly": new, "all": renamed}), tmp_path / "t.h5")
    assert set(contents(path)) == {
        "data", "data/owner", "data/owner/0", "data/a", "data/b", "data/b/1", "data/a_", "data/b_",
    }  # fmt: skip


def test_names_that_hdf5_cannot_hold(tmp_path):
    weights = read_weights(make(tmp_path / "n.h5", {"c": {0: np.ones(1, "f4")}, "c_0": {}}))
    with pytest.raises(ModelError, match="'c_0'"):
        weights.replace({"c": [NewWeights("c_0", [np.ones(1)])]})
    with pytest.raises(ModelError, match="'x/y'"):
        weights.replace({"c": [NewWeights("x/y", [np.ones(1)])]})
    with pytest.raises(ModelError, match="no weights of a layer 'd'"):
        weights.replace({"d": STACK})


def test_other_hdf5_files(tmp_path):
    with h5py.File(tmp_path / "keras.h5", "w") as file:
        file.create_group("model_weights")
    with pytest.raises(FormatError, match="no group 'data' in it, found 'model_weights'"):
        read_weights(tmp_path / "keras.h5")
    with h5py.File(tmp_path / "array.h5", "w") as file:
        file["data"] = np.ones(3)
    with pytest.raises(FormatError, match="no group 'data'"):
        read_weights(tmp_path / "array.h5")
    with pytest.raises(FormatError, match="no layers"):
        read_weights(make(tmp_path / "empty.h5", {}))
    with pytest.raises(FormatError, match="numbered from 0, found 'weight'"):
        read_weights(make(tmp_path / "names.h5", {"c": {"weight": np.ones(1)}}))
    text = read_weights(make(tmp_path / "text.h5", {"c": {0: np.array([b"abc"])}}))
    with pytest.raises(FormatError, match=r"layer 'c', blob 0: type .* holds no numbers"):
        text.check()


def test_user_block(tmp_path):
    with h5py.File(tmp_path / "u.h5", "w", userblock_size=512) as file:
        file["data/c/0"] = np.ones(3, "f4")
    assert read_weights(tmp_path / "u.h5").layer("c").blobs[0].shape == (3,)


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.7, 0.99])
def test_truncated(tmp_path, kept):
    data = (FOLDER / "hdf5.caffemodel").read_bytes()
    path = tmp_path / "cut.h5"
    path.write_bytes(data[: max(64, int(len(data) * kept))])
    with pytest.raises(FormatError, match="damaged HDF5") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_without_h5py(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'twofold\[hdf5\]'"):
        read_weights(FOLDER / "hdf5.caffemodel")
