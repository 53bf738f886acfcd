"""Data layers over LMDB: what a record means, by protobuf and OpenCV; the order of records; rejections."""

from __future__ import annotations

import os

import cv2
import lmdb
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tests.finetune.data.requests import reader
from tests.finetune.tiny import striped, write_images, write_lmdb

from twofold.errors import InputError
from twofold.finetune.data import Datum
from twofold.finetune.data.lmdb_file import LmdbFile

F = descriptor_pb2.FieldDescriptorProto
LAYER = """layer { name: "d" type: "Data" top: "data" top: "label" TRANSFORM
  data_param { source: "db" batch_size: 4 backend: LMDB MORE } }"""


def layer(transform: str = "", more: str = "") -> str:
    return LAYER.replace("TRANSFORM", f"transform_param {{ {transform} }}").replace("MORE", more)


def datum_class(*, packed: bool):
    """The protobuf library's Datum."""
    file = descriptor_pb2.FileDescriptorProto(name=f"datum{packed}.proto", package=f"datum{packed}")
    message = file.message_type.add(name="Datum")
    kinds = [F.TYPE_INT32] * 3 + [F.TYPE_BYTES, F.TYPE_INT32, F.TYPE_FLOAT, F.TYPE_BOOL]
    names = ["channels", "height", "width", "data", "label", "float_data", "encoded"]
    for number, (name, kind) in enumerate(zip(names, kinds, strict=True), 1):
        label = F.LABEL_REPEATED if name == "float_data" else F.LABEL_OPTIONAL
        field = message.field.add(name=name, number=number, type=kind, label=label)
        if name == "float_data":
            field.options.packed = packed
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"datum{packed}.Datum"))


@pytest.mark.parametrize("packed", [True, False])
def test_records_are_read_as_protobuf_means_them(packed):
    values = np.random.default_rng(0).normal(size=24).astype(np.float32)
    record = datum_class(packed=packed)(channels=2, height=3, width=4, label=-5, float_data=values.tolist())
    got = Datum.parse(record.SerializeToString(), "x")
    assert (got.shape, got.label, got.encoded) == ((2, 3, 4), -5, False)
    assert np.array_equal(got.image(None, "x"), values.reshape(2, 3, 4))


def test_records_are_written_as_protobuf_means_them():
    pixels = striped(1)[0][0]
    got = datum_class(packed=True).FromString(Datum.of(pixels, 300).serialize())
    assert (got.channels, got.height, got.width, got.label) == (1, 10, 10, 300)
    assert got.data == pixels.tobytes()
    floats = np.array([1.5, -2], np.float32)
    got = datum_class(packed=True).FromString(Datum((2, 1, 1), b"", 1, floats).serialize())
    assert list(got.float_data) == [1.5, -2]


@pytest.mark.parametrize(
    ("transform", "more", "flag"),
    [
        ("", "", cv2.IMREAD_UNCHANGED),
        ("force_color: true", "", cv2.IMREAD_COLOR),
        ("force_gray: true", "", cv2.IMREAD_GRAYSCALE),
        ("", "force_encoded_color: true", cv2.IMREAD_COLOR),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_encoded_images_are_decoded_as_opencv_does(tmp_path, transform, more, flag, channels):
    rng = np.random.default_rng(1)
    files = [
        cv2.imencode(".png", rng.integers(256, size=(6, 5, channels)).astype(np.uint8))[1] for _ in range(4)
    ]
    write_lmdb(
        tmp_path / "db",
        [Datum((9, 9, 9), f.tobytes(), i, None, True).serialize() for i, f in enumerate(files)],
    )
    got = reader(tmp_path, layer(transform, more)).batch(0)
    want = [cv2.imdecode(file, flag).reshape(6, 5, -1).transpose(2, 0, 1) for file in files]
    np.testing.assert_allclose(got["data"], np.stack(want), atol=1)  # gray is rounded in another way
    assert got["label"].tolist() == [0, 1, 2, 3]


def test_records_follow_one_another_over_the_end(tmp_path):
    write_images(tmp_path / "db", 10, 0)
    images, labels = striped(10)
    read = reader(tmp_path, layer())
    for number in (0, 1, 2, 7, 3):
        where = np.arange(number * 4, number * 4 + 4) % 10
        got = read.batch(number)
        assert got["data"].dtype == got["label"].dtype == np.float32
        assert np.array_equal(got["data"], images[where])
        assert np.array_equal(got["label"], labels[where])


def test_a_random_beginning_follows_from_the_seed(tmp_path):
    write_images(tmp_path / "db", 10, 0)
    images, _ = striped(10)
    firsts = set()
    for seed in range(20):
        read = reader(tmp_path, layer(more="rand_skip: 6"), seed=seed)
        first = int(np.argmax([np.array_equal(read.batch(0)["data"][0], image) for image in images]))
        again = reader(tmp_path, layer(more="rand_skip: 6"), seed=seed)
        assert np.array_equal(again.batch(2)["data"], images[np.arange(first + 8, first + 12) % 10])
        firsts.add(first)
    assert firsts <= set(range(6))
    assert len(firsts) > 3


def test_two_layers_may_read_one_database(tmp_path):
    write_images(tmp_path / "db", 10, 0)
    one, other = reader(tmp_path, layer()), reader(tmp_path, layer())
    assert np.array_equal(one.batch(0)["data"], other.batch(0)["data"])
    assert np.array_equal(one.batch(2)["data"], other.batch(2)["data"])


def test_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "CURRENT").touch()
    with pytest.raises(InputError, match=r"is a LevelDB, which is not read; write the images as LMDB"):
        reader(tmp_path, layer().replace("backend: LMDB", ""))
    (tmp_path / "db" / "data.mdb").write_bytes(b"junk" * 5000)
    with pytest.raises(InputError, match="cannot be read as LMDB"):
        reader(tmp_path, layer())
    with pytest.raises(InputError, match=r"'nowhere' is neither in the working directory"):
        reader(tmp_path, layer().replace('"db"', '"nowhere"'))


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (b"\xff\xff", "record 1 of .*db: not a Datum, or damaged"),
        (Datum((1, 3, 3), b"12345678").serialize(), r"8 values for an image of shape \(1, 3, 3\)"),
        (Datum((1, 3, 3), b"junk", 0, None, True).serialize(), "not an image in a known format"),
        (Datum((1, 2, 2), b"1234").serialize(), r"shapes \(1, 2, 2\) and \(1, 3, 3\) in one batch"),
    ],
)
def test_a_bad_record_is_named(tmp_path, record, says):
    good = Datum((1, 3, 3), b"123456789").serialize()
    write_lmdb(tmp_path / "db", [good, record, good, good])
    read = reader(tmp_path, layer())
    with pytest.raises(InputError, match=says):
        read.batch(0)


def test_an_empty_database_is_refused(tmp_path):
    write_lmdb(tmp_path / "db", [])
    with pytest.raises(InputError, match="its source is empty"):
        reader(tmp_path, layer())


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes of a file, some of them changed or all behind a point gone."""
    changed = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 8)):
        changed[place] = rng.integers(256)
    for place in rng.choice(len(content) // 4096, 2):  # where pages say what they are
        changed[place * 4096 + rng.integers(48)] = rng.integers(256)
    return bytes(changed[: rng.integers(len(content))] if rng.integers(4) == 0 else changed)


def test_damage_is_named_and_ends_no_process(tmp_path):
    """LMDB itself dies of such files: with a signal, or without end."""
    sizes = np.random.default_rng(0).integers(10, 9000, 120)
    write_lmdb(tmp_path / "db", [bytes([i]) * size for i, size in enumerate(sizes)])
    content = (tmp_path / "db" / "data.mdb").read_bytes()
    rng, says, places = np.random.default_rng(1), [], tmp_path / "damaged"
    for _ in range(300):
        places.write_bytes(damaged(content, rng))
        try:
            file = LmdbFile(places, "data")
            for index in range(file.count):
                file.read(index)
        except InputError as error:
            says.append(str(error))
    assert len(says) > 100
    assert all(line.startswith(f"data: its source {places} cannot be read as LMDB: ") for line in says)
    assert not any("\n" in line for line in says)


def test_large_databases_are_read_as_lmdb_reads_them(tmp_path):
    """Several levels of branches, values in pages and behind them, and one that was removed."""
    rng = np.random.default_rng(0)
    keys = [f"{rng.integers(10**9)}" * 5 for _ in range(3000)]
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 26) as base:
        for part in (keys[:2000], keys[2000:]):
            with base.begin(write=True) as writing:
                for key in part:
                    writing.put(key.encode(), rng.bytes(int(rng.choice([0, 3, 900, 2100, 20_000]))))
        with base.begin(write=True) as writing:
            writing.delete(keys[7].encode())
        with base.begin() as reading:
            wanted = [bytes(value) for _, value in reading.cursor()]
        assert base.stat()["depth"] > 2
    file = LmdbFile(tmp_path / "db", "data")
    assert file.count == len(wanted) == 2999
    assert [file.read(index) for index in range(file.count)] == wanted
    assert file.read(1500) == wanted[1500]


def test_a_database_that_gets_shorter_is_named(tmp_path):
    path = write_lmdb(tmp_path / "db", [bytes(9000)] * 20) / "data.mdb"
    file = LmdbFile(tmp_path / "db", "data")
    file.read(0)
    os.truncate(path, path.stat().st_size // 4)
    with pytest.raises(InputError, match="it got shorter while it was in use"):
        file.read(19)
    with pytest.raises(InputError, match=r"it is cut off: \d+ of \d+ bytes are there"):
        LmdbFile(tmp_path / "db", "data")
