"""ONNX models whose data lie in files beside them."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.formats.onnx.small import assert_close, image, run, two

from twofold.backends import load
from twofold.decomposition.decompose import decompose as decompose_anyhow
from twofold.errors import FormatError, OutputError
from twofold.formats.onnx.model import OnnxModel

#: How files are edited is tested here, not how factors are fitted.
decompose = partial(decompose_anyhow, no_data=True)

X = {"x": image(1, 16, 12, 12)}


def write_external(path: Path, *, one_file: bool = True) -> Path:
    """The model `two` with its weights in net.data, or each tensor in a file of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(
        two(), path, save_as_external_data=True, all_tensors_to_one_file=one_file, location="net.data",
        size_threshold=0,
    )  # fmt: skip
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def entries(path: Path) -> dict[str, dict[str, str]]:
    stored = onnx.load(path, load_external_data=False).graph.initializer
    return {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in stored}


@pytest.mark.parametrize("one_file", [True, False])
def test_full_rank_gives_the_same_output(tmp_path, one_file):
    path = write_external(tmp_path / "in" / "net.onnx", one_file=one_file)
    result = decompose(OnnxModel.load(path), ranks={"two": "full"}, only="two")
    written = result.save(tmp_path / "out")
    assert files(tmp_path / "out") == sorted([*files(tmp_path / "in"), "plan.json"])
    assert sorted(result.plan.sources) == files(tmp_path / "in")
    onnx.checker.check_model(str(written[0]), full_check=True)
    assert_close(run(written[0], **X), run(path, **X))
    assert list(entries(written[0])) == ["one.w", "one.b", "two.w_0", "two.w_1", "two.b"]
    # The old weight is gone, and nothing lies between the tensors.
    total = sum(int(entry["length"]) for entry in entries(written[0]).values())
    data = [file for file in (tmp_path / "out").iterdir() if file.suffix not in (".onnx", ".json")]
    assert sum(file.stat().st_size for file in data) == total


def test_pages_and_shared_data_stay(tmp_path):
    path = write_external(tmp_path / "net.onnx")
    proto = onnx.load(path, load_external_data=False)
    arrays = [numpy_helper.to_array(t, str(tmp_path)) for t in proto.graph.initializer]
    content = b""
    for tensor, array in zip(proto.graph.initializer, arrays, strict=True):
        content += bytes(-len(content) % 4096)
        for entry in tensor.external_data:
            entry.value = {"offset": str(len(content)), "length": str(array.nbytes)}.get(
                entry.key, entry.value
            )
        content += array.tobytes()
    # Both biases are one piece of data.
    proto.graph.initializer[3].external_data[1].value = proto.graph.initializer[1].external_data[1].value
    (tmp_path / "net.data").write_bytes(content)
    path.write_bytes(proto.SerializeToString())
    written = decompose(OnnxModel.load(path), ranks={"one": "full"}, only="one").save(tmp_path / "out")
    found = entries(written[0])
    assert all(int(entry["offset"]) % 4096 == 0 for entry in found.values())
    assert found["one.b"] == found["two.b"]
    assert_close(run(written[0], **X), run(path, **X))


def test_nothing_to_replace_copies_all_files(tmp_path):
    path = write_external(tmp_path / "in" / "net.onnx")
    decompose(OnnxModel.load(path), energy=0.5, skip="*").save(tmp_path / "out")
    for name in files(tmp_path / "in"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


def test_a_result_may_replace_its_own_input(tmp_path):
    path = write_external(tmp_path / "net.onnx")
    wanted = run(path, **X)
    result = decompose(OnnxModel.load(path), ranks={"*": "full"})
    result.save(tmp_path, force=True)
    assert_close(run(path, **X), wanted)
    assert files(tmp_path) == ["net.data", "net.onnx", "plan.json"]


def test_data_are_not_overwritten_without_being_asked(tmp_path):
    path = write_external(tmp_path / "in" / "net.onnx")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "net.data").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"net.data: exists already"):
        decompose(OnnxModel.load(path), macs=0.6).save(tmp_path / "out")
    assert files(tmp_path / "out") == ["net.data"]


def test_the_files_in_the_plan_are_hashed(tmp_path):
    path = write_external(tmp_path / "net.onnx")
    sources = OnnxModel.load(path).sources()
    assert sources["net.data"] == hashlib.sha256((tmp_path / "net.data").read_bytes()).hexdigest()


def test_missing_data(tmp_path):
    path = write_external(tmp_path / "net.onnx")
    (tmp_path / "net.data").unlink()
    with pytest.raises(FormatError, match=r"its data file 'net.data' is missing"):
        OnnxModel.load(path)


def test_data_cut_short(tmp_path):
    path = write_external(tmp_path / "net.onnx")
    (tmp_path / "net.data").write_bytes((tmp_path / "net.data").read_bytes()[:5000])
    with pytest.raises(FormatError, match=r"net.onnx: tensor 'one.w' cannot be read"):
        OnnxModel.load(path).convolutions()


def test_data_that_nobody_looked_at_cut_short(tmp_path):
    """The last bias alone is not read to decompose `one`; it is when it is copied."""
    path = write_external(tmp_path / "net.onnx", one_file=False)
    model = OnnxModel.load(path)
    result = decompose(model, ranks={"one": 8}, only="one")
    (tmp_path / "two.b").write_bytes(b"1234")
    with pytest.raises(OutputError, match="short"):
        result.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", ""])
def test_data_outside_the_folder_are_not_read(tmp_path, location):
    path = write_external(tmp_path / "in" / "net.onnx")
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(FormatError, match="outside the model's folder"):
        OnnxModel.load(path)


@pytest.mark.slow
def test_a_model_larger_than_one_message_can_be(tmp_path):
    """Two GiB of data, sparse on disk and never in memory as a whole, beside the layers."""
    path = write_external(tmp_path / "in" / "net.onnx")
    proto = onnx.load(path, load_external_data=False)
    proto.graph.node.add(op_type="Gather", input=["huge", "index"], output=["z"])
    huge = proto.graph.initializer.add(name="huge", data_type=onnx.TensorProto.FLOAT, dims=[1 << 20, 513])
    huge.data_location = onnx.TensorProto.EXTERNAL
    huge.external_data.add(key="location", value="huge.bin")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([3]), "index"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 513]))
    path.write_bytes(proto.SerializeToString())
    size = (1 << 20) * 513 * 4
    with (tmp_path / "in" / "huge.bin").open("wb") as stream:
        stream.seek(3 * 513 * 4)
        stream.write(np.full(513, 7, np.float32).tobytes())
        stream.truncate(size)
    result = decompose(OnnxModel.load(path), ranks={"*": "full"})
    written = result.save(tmp_path / "out")
    assert (tmp_path / "out" / "huge.bin").stat().st_size == size
    got, wanted = run(written[0], **X), run(path, **X)
    assert_close(got[:1], wanted[:1])
    np.testing.assert_array_equal(got[1], np.full((1, 513), 7, np.float32))


def linked(tmp_path: Path, target: Path) -> Path:
    """A model whose data file is a link to `target`, where the data are then."""
    path = write_external(tmp_path / "in" / "net.onnx")
    target.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "in" / "net.data").rename(target)
    (tmp_path / "in" / "net.data").symlink_to(target)
    return path


def test_a_link_out_of_the_folder_is_rejected_unless_allowed(tmp_path):
    path = linked(tmp_path, tmp_path / "elsewhere" / "secret")
    with pytest.raises(FormatError, match=r"'net.data' is a link to .*secret, outside .* follow_links=True"):
        load(path)
    copy = load(linked_copy(tmp_path))
    assert load(path, follow_links=True).sources()["net.data"] == copy.sources()["net.data"]
    with pytest.raises(FormatError, match="is a link"):  # what one call may, the next may not
        load(path)


def linked_copy(tmp_path: Path) -> Path:
    return write_external(tmp_path / "copy" / "net.onnx")


def test_a_folder_that_is_a_link_out_is_rejected(tmp_path):
    path = write_external(tmp_path / "in" / "net.onnx")
    set_entry(path, "location", "part/net.data")
    (tmp_path / "other").mkdir()
    (tmp_path / "in" / "net.data").rename(tmp_path / "other" / "net.data")
    (tmp_path / "in" / "part").symlink_to("../other")
    with pytest.raises(FormatError, match=r"'part/net.data' is a link to .*other/net\.data"):
        load(path)


@pytest.mark.parametrize("place", ["in/parts/data", "blobs/0a1b"])
def test_links_within_the_folder_and_to_a_hubs_store_are_fine(tmp_path, place):
    if place.startswith("in"):
        path = linked(tmp_path, tmp_path / place)
    else:  # models--NAME/snapshots/REVISION/onnx/net.onnx, where the model is a link, too
        path = linked(tmp_path / "hub" / "snapshots" / "9f", tmp_path / "hub" / place)
        path.rename(tmp_path / "hub" / "blobs" / "2c3d")
        path.symlink_to(tmp_path / "hub" / "blobs" / "2c3d")
    written = decompose(load(path), ranks={"two": "full"}, only="two").save(tmp_path / "out")
    assert_close(run(written[0], **X), run(linked_copy(tmp_path), **X))


def set_entry(path: Path, key: str, value: str) -> None:
    """Change an entry of all external data."""
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value
    path.write_bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("length", "-1", "has data with the length '-1', no number of bytes"),
        ("offset", "-8", "has data with the offset '-8', no number of bytes"),
        ("length", "1e3", "has data with the length '1e3', no number of bytes"),
        ("length", "9" * 40, "no number of bytes"),
        ("length", "999999", r"are 999999 bytes at \d+ in 'net.data', which has only \d+; is it cut off"),
        ("offset", "4611686018427387904", "which has only"),
        ("location", "/etc/passwd", "outside the model's folder"),
        ("location", "../net.data", "outside the model's folder"),
        ("location", "a/../../net.data", "outside the model's folder"),
        ("location", "C:net.data", "outside the model's folder"),
        ("location", "..\\net.data", "outside the model's folder"),
        ("location", "no\0name", "is missing|null"),
    ],
)
def test_what_external_data_say_is_checked_when_it_is_loaded(tmp_path, key, value, says):
    path = write_external(tmp_path / "net.onnx")
    set_entry(path, key, value)
    with pytest.raises(FormatError, match=says) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.onnx", "net.data"])
@pytest.mark.parametrize("asked", [{"ranks": {"two": "full"}, "only": "two"}, {"energy": 0.5, "skip": "*"}])
def test_files_that_change_while_they_are_in_use_are_named(tmp_path, name, asked):
    """Nothing is written, whether a net was edited or is copied."""
    path = write_external(tmp_path / "in" / "net.onnx")
    result = decompose(load(path), **asked)
    with (path.parent / name).open("r+b") as file:
        file.seek(200)
        file.write(b"\xff\xff\xff\xff")
    with pytest.raises(
        OutputError, match=rf"in/{name}: was changed while it was in use; nothing was written"
    ):
        result.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
