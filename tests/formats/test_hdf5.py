"""HDF5 files that name other files: whoever reads them, they are rejected before anything else is opened."""

from __future__ import annotations

import numpy as np
import pytest
from tests.finetune.data.requests import reader

from twofold.errors import TwofoldError
from twofold.finetune.storage import read_state
from twofold.formats.caffe.caffemodel import read_weights

h5py = pytest.importorskip("h5py")

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def link(file, name):
    file[name] = h5py.ExternalLink("secret.h5", "/values")


def link_of_a_group(file, name):
    file[name.rpartition("/")[0] or "more"] = h5py.ExternalLink("secret.h5", "/")


def values_outside(file, name):
    file.create_dataset(name, VALUES.shape, "f4", external=[("secret.bin", 0, h5py.h5f.UNLIMITED)])


def view(file, name):
    layout = h5py.VirtualLayout(VALUES.shape, "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "values", VALUES.shape)
    file.create_virtual_dataset(name, layout)


def view_without_sources(file, name):
    file.create_virtual_dataset(name, h5py.VirtualLayout(VALUES.shape, "f4"))


def plain(file, name):
    file[name] = VALUES


def within(file, name):
    file["kept"] = VALUES
    file[name] = h5py.SoftLink("/kept")
    file["once more"] = h5py.SoftLink(name)


OUTSIDE = {
    link: "is a link to 'secret.h5'", link_of_a_group: "is a link to 'secret.h5'",
    values_outside: "keeps its values in 'secret.bin'", view: "is a view of 'secret.h5'",
    view_without_sources: "is a view of 'nothing'",
}  # fmt: skip


def weights(path, put):
    with h5py.File(path, "w") as file:
        put(file, "data/conv/0")
    return read_weights(path).layers[0].blobs[0].array()


def unused(path, put):
    """What nobody reads would be copied into the output."""
    with h5py.File(path, "w") as file:
        file["data/conv/0"] = VALUES
        put(file, "notes/of somebody")
    return read_weights(path).layers[0].blobs[0].array()


def state(path, put):
    with h5py.File(path, "w") as file:
        put(file, "history/0")
        file["iter"], file["current_step"] = np.array([3]), np.array([0])
        file["learned_net"] = np.array(b"net.caffemodel", "S15")
    return read_state(path).history[0]


def rows(path, put):
    with h5py.File(path, "w") as file:
        put(file, "x")
    (path.parent / "list.txt").write_text(path.name)
    text = 'hdf5_data_param { source: "list.txt" batch_size: 2 }'
    return reader(path.parent, f'layer {{ name: "d" type: "HDF5Data" top: "x" {text} }}').batch(0)["x"]


@pytest.fixture
def folder(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["values"] = VALUES
    VALUES.tofile(tmp_path / "secret.bin")
    return tmp_path


@pytest.mark.parametrize("read", [weights, unused, state, rows])
@pytest.mark.parametrize("put", [plain, within])
def test_what_is_in_the_file_is_read(folder, read, put):
    np.testing.assert_array_equal(read(folder / "attack.h5", put), VALUES)


@pytest.mark.parametrize("read", [weights, unused, state, rows])
@pytest.mark.parametrize("put", OUTSIDE)
def test_what_is_in_another_file_is_rejected(folder, read, put):
    with pytest.raises(TwofoldError, match=r"attack\.h5: '[^']+' " + OUTSIDE[put]) as caught:
        read(folder / "attack.h5", put)
    assert "copy them into it" in str(caught.value)
    (folder / "attack.h5").unlink()  # and is closed
