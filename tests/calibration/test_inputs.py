import numpy as np
import pytest

from twofold.calibration.inputs import Inputs, Provenance, describe, from_arrays, load_data
from twofold.errors import InputError, OptionError

SHAPE = {"data": (3, 4, 5)}
RNG = np.random.default_rng(0)


def samples(count, dtype=np.float32):
    return RNG.normal(size=(count, 3, 4, 5)).astype(dtype)


def test_batches_cover_all_samples_in_order_and_again():
    data = samples(7)
    inputs = from_arrays(data, SHAPE).batched(3)
    for _ in range(2):
        batches = list(inputs)
        assert [len(batch["data"]) for batch in batches] == [3, 3, 1]
        np.testing.assert_array_equal(np.concatenate([batch["data"] for batch in batches]), data)
    assert len(inputs) == 3
    assert inputs.count == 7


def test_arrays_are_read_only():
    (batch,) = from_arrays(samples(2), SHAPE)
    with pytest.raises(ValueError, match="read-only"):
        batch["data"][0] = 0


def test_iterables_of_samples_and_of_batches_and_generators():
    data = samples(6)
    for items in (list(data), [data[:4], data[4:]], (one for one in data), [{"data": data}], {"data": data}):
        inputs = from_arrays(items, SHAPE)
        np.testing.assert_array_equal(inputs.arrays["data"], data)
        assert len(list(inputs)) == len(list(inputs)) == 1


def test_the_first_of_a_loaders_pairs_is_the_input():
    data = samples(4)
    inputs = from_arrays([(data[:2], np.zeros(2)), (data[2:], np.ones(2))], SHAPE)
    np.testing.assert_array_equal(inputs.arrays["data"], data)


def test_torch_tensors_are_taken():
    torch = pytest.importorskip("torch")
    data = torch.ones(2, 3, 4, 5, requires_grad=True)
    assert from_arrays([data, data], SHAPE).count == 4


def test_several_inputs_need_their_names():
    shapes = {"image": (1, 2, 2), "info": (3,)}
    items = [{"image": np.zeros((1, 2, 2)), "info": [1, 2, 3]} for _ in range(3)]
    inputs = from_arrays(items, shapes)
    assert {name: array.shape for name, array in inputs.arrays.items()} == {
        "image": (3, 1, 2, 2),
        "info": (3, 3),
    }
    with pytest.raises(InputError, match=r"the net has the inputs \['image', 'info'\]"):
        from_arrays([np.zeros((1, 2, 2))], shapes)
    with pytest.raises(InputError, match="but the net's inputs are"):
        from_arrays([{"image": np.zeros((1, 2, 2))}], shapes)
    with pytest.raises(InputError, match="same number of samples"):
        from_arrays([{"image": np.zeros((2, 1, 2, 2)), "info": np.zeros((3, 3))}], shapes)


def test_the_limit_stops_an_endless_generator_and_says_so():
    def endless():
        while True:
            yield np.zeros((4, 3, 4, 5))

    inputs = from_arrays(endless(), SHAPE, limit=10)
    assert inputs.count == 10
    assert "first 10 samples" in inputs.provenance.notes[0]


@pytest.mark.parametrize("parts", [1, 2, 10])
def test_a_limit_is_told_only_where_something_is_left_out(parts):
    array = np.zeros((10, 3, 4, 5))
    for limit, notes in ((9, 1), (10, 0), (11, 0)):
        for items in (array, np.split(array, parts), iter(np.split(array, parts))):
            inputs = from_arrays(items, SHAPE, limit=limit)
            assert inputs.count == min(limit, 10)
            assert len(inputs.provenance.notes) == notes


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "empty"),
        (3, "iterable"),
        ([np.zeros((3, 4, 6))], r"shape \(1, 3, 4, 6\), but the net takes \(N, 3, 4, 5\)$"),
        ([np.zeros((2, 4, 5, 3))], "channels last"),
        ([np.full((3, 4, 5), np.nan)], "not finite"),
        ([np.array(["a"])], "not an array of numbers"),
        ([np.zeros((3, 4, 5), complex)], "complex"),
    ],
)
def test_what_does_not_fit_is_named(items, message):
    with pytest.raises(InputError, match=message):
        from_arrays(items, SHAPE)


def test_free_sizes_take_anything():
    assert from_arrays(np.zeros((2, 3, 9, 9)), {"data": (3, None, None)}).count == 2
    assert describe((3, None, None)) == "(N, 3, any, any)"


def test_npy_and_npz_files(tmp_path):
    data = samples(5, np.float64)
    np.save(tmp_path / "a.npy", data)
    np.savez(tmp_path / "b.npz", whatever=data)
    np.savez(tmp_path / "c.npz", data=data, more=np.zeros((5, 2)))
    for path, shapes in [("a.npy", SHAPE), ("b.npz", SHAPE), ("c.npz", {**SHAPE, "more": (2,)})]:
        inputs = load_data(tmp_path / path, shapes)
        np.testing.assert_array_equal(inputs.arrays["data"], data.astype(np.float32))
    assert load_data(tmp_path / "a.npy", SHAPE, limit=2).count == 2
    np.save(tmp_path / "one.npy", data[0])
    assert load_data(tmp_path / "one.npy", SHAPE).count == 1


def test_files_that_are_no_arrays(tmp_path):
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04junk")
    np.save(tmp_path / "objects.npy", np.array([{}, 1], object), allow_pickle=True)
    for name in ("text.npy", "cut.npy", "cut.npz", "objects.npy", "missing.npy"):
        with pytest.raises(InputError, match=name):
            load_data(tmp_path / name, SHAPE)


def test_the_record_tells_inputs_apart():
    data = samples(3)
    record = from_arrays(data, SHAPE).record()
    assert record["count"] == 3
    assert record["shapes"] == {"data": [3, 4, 5]}
    assert record["sha256"] == from_arrays(list(data), SHAPE).record()["sha256"]
    changed = data.copy()
    changed[2, 0, 0, 0] += 1e-3
    assert record["sha256"] != from_arrays(changed, SHAPE).record()["sha256"]


def test_parts_of_the_samples():
    data = samples(5)
    inputs = from_arrays(data, SHAPE)
    np.testing.assert_array_equal(inputs.take([4, 0]).arrays["data"], data[[4, 0]])
    np.testing.assert_array_equal(inputs.take(slice(1, 3)).arrays["data"], data[1:3])


def test_impossible_inputs_are_refused():
    with pytest.raises(InputError, match="not a single sample"):
        Inputs({"data": np.zeros((0, 3, 4, 5), np.float32)}, Provenance("arrays"))
    with pytest.raises(OptionError, match="at least one sample"):
        from_arrays(samples(1), SHAPE).batched(0)
