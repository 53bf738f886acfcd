"""What all readers have in common: shares, batches ahead, rows from Python, types that are not read."""

from __future__ import annotations

import numpy as np
import pytest
from tests.finetune.data.requests import reader
from tests.finetune.tiny import DATA, write_images

from twofold.distributed import Shard
from twofold.errors import InputError, OptionError
from twofold.finetune.data import Batches, known_types, register

LAYER = DATA[: DATA.index('layer { name: "data" type: "Data"', 5)].replace("include { phase: TRAIN }", "")
MEMORY = """layer { name: "m" type: "MemoryData" top: "x" top: "t"
  memory_data_param { batch_size: 3 channels: 1 height: 2 width: 2 } }"""
ROWS = {"x": np.arange(20, dtype=np.float64).reshape(5, 1, 2, 2), "t": np.arange(5)}


@pytest.fixture
def read(tmp_path):
    write_images(tmp_path / "train_lmdb", 13, 0)
    return reader(tmp_path, LAYER)


def test_shares_together_are_the_batch(read):
    whole = read.batch(5)
    for size in (1, 2, 4, 8):
        parts = [read.batch(5, Shard(rank, size)) for rank in range(size)]
        for name in ("data", "label"):
            assert np.array_equal(np.concatenate([part[name] for part in parts]), whole[name])


def test_an_uneven_share_is_refused(read):
    with pytest.raises(InputError, match="a batch of 8 cannot be shared evenly by 3 processes; make"):
        read.batch(0, Shard(0, 3))


def test_batches_come_in_the_order_that_was_asked_for(read):
    with Batches([read]) as batches:
        assert batches.shapes() == {"data": (8, 1, 8, 8), "label": (8,)}
        numbers = [3, 1, 4, 1, 5, 9, 2]
        got = list(batches.over(numbers))
        assert len(got) == len(numbers)
        for number, batch in zip(numbers, got, strict=True):
            assert np.array_equal(batch["data"].numpy(), read.batch(number)["data"])
        assert list(batches.over([])) == []


def test_rows_are_taken_round_and_round():
    read = reader(".", MEMORY, **ROWS)
    got = read.batch(1)
    assert got["t"].tolist() == [3, 4, 0]
    assert np.array_equal(got["x"], ROWS["x"][[3, 4, 0]].astype(np.float32))


def test_rows_may_replace_what_a_layer_names():
    read = reader(".", LAYER, data=ROWS["x"], label=ROWS["t"])
    assert read.batch(0)["label"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]


@pytest.mark.parametrize(
    ("layer", "fed", "says"),
    [
        (MEMORY, {}, r"nothing was given for 'x', 't'; call finetune.train\(..., train_data="),
        (MEMORY, {"x": ROWS["x"]}, "nothing was given for 't'"),
        ('layer { name: "i" type: "Input" top: "x" }', {"x": ROWS["x"]}, "says no shape"),
        ('layer { name: "w" type: "WindowData" top: "x" }', {}, "known: .*HDF5Data"),
        (MEMORY.replace("batch_size: 3", "batch_size: 0"), ROWS, "state it"),
        (
            'layer { name: "d" type: "ImageData" top: "x" transform_param { random_crop: true } }',
            {},
            "transform_param.random_crop: true, of which it is not known what it does to the data",
        ),
    ],
)
def test_what_is_refused(layer, fed, says):
    with pytest.raises(InputError, match=says):
        reader(".", layer, **fed)


def test_a_type_is_registered_once():
    with pytest.raises(OptionError, match="'Data' is registered already"):
        register("Data")(lambda request: None)
    assert known_types() == ["Data", "HDF5Data", "ImageData", "Input", "MemoryData"]
