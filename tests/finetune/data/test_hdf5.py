"""HDF5Data: rows of several files, in order and shuffled; rejections."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from tests.finetune.data.requests import reader

from twofold.errors import InputError

LAYER = """layer { name: "d" type: "HDF5Data" top: "x" top: "t"
  hdf5_data_param { source: "list.txt" batch_size: 4 MORE } }"""
X = np.random.default_rng(0).normal(size=(11, 2, 3)).astype(np.float32)
T = np.arange(11)


def layer(more: str = "") -> str:
    return LAYER.replace("MORE", more)


def write(path, **datasets) -> None:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "a.h5", x=X[:5], t=T[:5])
    write(tmp_path / "b.h5", x=X[5:], t=T[5:], other=np.zeros(3))
    (tmp_path / "list.txt").write_text("a.h5\nb.h5\n\n")
    return tmp_path


def test_rows_in_order_over_files_and_epochs(folder):
    read = reader(folder, layer())
    for number in (0, 1, 2, 5, 0):
        where = np.arange(number * 4, number * 4 + 4) % 11
        got = read.batch(number)
        assert np.array_equal(got["x"], X[where])
        assert np.array_equal(got["t"], T[where].astype(np.float32))


def test_shuffled_rows_stay_with_their_file(folder):
    read = reader(folder, layer("shuffle: true"))
    got = [read.batch(number) for number in range(22)]
    order = np.concatenate([one["t"] for one in got]).reshape(8, 11).astype(int)
    assert np.array_equal(np.concatenate([one["x"] for one in got]), X[order.reshape(-1)])
    for epoch in order:
        assert sorted(epoch) == list(range(11))
        in_first = epoch < 5
        assert in_first[:5].all() or in_first[6:].all()
    assert len({tuple(epoch) for epoch in order.tolist()}) == 8
    assert len({epoch[0] < 5 for epoch in order.tolist()}) == 2


@pytest.mark.parametrize(
    ("datasets", "says"),
    [
        ({"x": X}, r"a.h5 has no dataset of numbers 't'.*it has 'x'"),
        ({"x": X, "t": T[:4]}, r"its datasets differ in their rows: \{'x': 11, 't': 4\}"),
        ({"x": X, "t": 3.0}, "no dataset of numbers 't'"),
        ({"x": X[:0], "t": T[:0]}, "its source is empty"),
    ],
)
def test_a_file_that_is_refused(folder, datasets, says):
    write(folder / "a.h5", **datasets)
    (folder / "list.txt").write_text("a.h5\n")
    with pytest.raises(InputError, match=says):
        reader(folder, layer())


def test_no_hdf5_and_no_transformation(folder):
    (folder / "a.h5").write_bytes(b"no")
    with pytest.raises(InputError, match=r"a.h5: is not a file of HDF5, or is damaged"):
        reader(folder, layer())
    with pytest.raises(InputError, match="transform_param is not for this type"):
        reader(folder, layer().replace("hdf5_data_param", "transform_param { scale: 2 } hdf5_data_param"))
