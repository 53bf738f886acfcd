"""Weights rounded to what layers see: never worse than one by one, better where inputs hang together."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import ModelProto, numpy_helper  # noqa: E402

from twofold.calibration.inputs import Inputs, Provenance  # noqa: E402
from twofold.int8 import weights  # noqa: E402
from twofold.int8.qdq import prepare, session, write_int8  # noqa: E402
from twofold.int8.weights import round_columns, round_to_outputs  # noqa: E402


def moment(size: int, seed: int = 0) -> np.ndarray:
    """Of values that hang together, as those of neighbours do."""
    mixed = np.exp(-np.abs(np.subtract.outer(np.arange(size), np.arange(size))) / 8)
    scale = np.random.default_rng(seed).uniform(0.5, 2, size)
    return mixed * np.outer(scale, scale)


def problem(rows: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    weight = np.random.default_rng(seed).normal(size=(rows, size))
    return weight, np.broadcast_to(np.abs(weight).max(axis=1, keepdims=True) / 127, weight.shape)


def change(error: np.ndarray, moment: np.ndarray) -> np.ndarray:
    return np.array([row @ moment @ row for row in error])


@pytest.mark.parametrize("size", [1, 9, 64, 300])
def test_no_output_changes_more_than_by_rounding_to_the_nearest(size):
    weight, scale = problem(12, size)
    seen = moment(size)
    found = round_columns(weight, scale, seen)
    assert (np.rint(found) == found).all()
    assert np.abs(found).max() <= 127
    ours = change(found * scale - weight, seen)
    nearest = change(np.rint(weight / scale) * scale - weight, seen)
    assert (ours <= nearest).all()
    if size > 9:
        assert ours.sum() < 0.3 * nearest.sum()


def test_the_law_holds_where_columns_one_after_the_other_are_no_gain():
    # Without the comparison some rows of these would be worse.
    for seed in range(40):
        weight, scale = problem(8, 12, seed)
        seen = moment(12, seed) * (0.7 + 0.3 * np.eye(12))
        ours = change(round_columns(weight, scale, seen) * scale - weight, seen)
        assert (ours <= change(np.rint(weight / scale) * scale - weight, seen)).all()


def test_nothing_is_better_than_the_nearest_where_inputs_have_nothing_in_common():
    weight, scale = problem(5, 40)
    nearest = np.rint(weight / scale)
    np.testing.assert_array_equal(round_columns(weight, scale, np.diag(np.arange(1.0, 41))), nearest)
    np.testing.assert_array_equal(round_columns(weight, scale, np.zeros((40, 40))), nearest)


def test_of_two_columns_the_best_choice_is_found():
    # Two inputs that are nearly the same: only the sum of both numbers counts.
    seen = np.array([[1.0, 0.999], [0.999, 1.0]])
    weight = np.array([[100.4, 20.4], [-3.3, 7.7]])
    found = round_columns(weight, np.ones_like(weight), seen)
    np.testing.assert_array_equal(found.sum(axis=1), np.rint(weight.sum(axis=1)))


def test_blocks_change_nothing(monkeypatch):
    weight, scale = problem(7, 300)
    found = round_columns(weight, scale, moment(300))
    monkeypatch.setattr(weights, "_BLOCK", 1000)
    np.testing.assert_array_equal(found, round_columns(weight, scale, moment(300)))


#: Operator and its attributes, shape of the weight, shape of a sample.
LAYERS = {
    "convolution": ("Conv <pads=[1,1,1,1],strides=[2,2]>", (24, 16, 3, 3), (16, 9, 9)),
    "dilated": ("Conv <dilations=[2,2]>", (24, 16, 3, 3), (16, 9, 9)),
    "groups": ("Conv <group=4>", (24, 4, 3, 3), (16, 9, 9)),
    "depthwise": ("Conv <group=16,pads=[1,1,1,1]>", (16, 1, 3, 3), (16, 9, 9)),
    "one axis": ("Conv <pads=[1,1]>", (24, 16, 3), (16, 20)),
    "transposed": ("ConvTranspose <strides=[2,2]>", (16, 24, 2, 2), (16, 9, 9)),
    "transposed, groups": ("ConvTranspose <group=2>", (16, 12, 3, 3), (16, 9, 9)),
    "fully connected": ("Gemm", (40, 24), (40,)),
    "fully connected, transposed": ("Gemm <transB=1>", (24, 40), (40,)),
    "product": ("MatMul", (40, 24), (7, 40)),
}


def net(operator: str, shape: tuple[int, ...], sample: tuple[int, ...]) -> ModelProto:
    size = ",".join(map(str, sample))
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 13]> net (float[N,{size}] data) => (float[] out) '
        f"{{ out = {operator} (data, w) }}"
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    proto.graph.node[0].name = "layer"
    return proto


def samples(shape: tuple[int, ...], seed: int) -> Inputs:
    """Smooth along each axis, as what layers see is."""
    values = np.random.default_rng(seed).normal(size=(64, *shape))
    for axis in range(1, values.ndim):
        values = sum(np.roll(values, shift, axis) for shift in range(4)) / 2
    return Inputs({"data": (values + 0.5).astype(np.float32)}, Provenance("arrays")).batched(16)


def rounded(plain: Path, int8: Path) -> ModelProto:
    """The float model with the int8 model's weight."""
    proto, graph = onnx.load(plain), onnx.load(int8).graph
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    (node,) = (node for node in graph.node if node.input[0] == "w_quantized")
    numbers, scale = stored["w_quantized"].astype(np.float32), stored["w_scale"]
    if scale.size > 1:
        axis = node.attribute[0].i
        scale = scale.reshape([-1 if place == axis else 1 for place in range(numbers.ndim)])
    (weight,) = (one for one in proto.graph.initializer if one.name == "w")
    weight.CopyFrom(numpy_helper.from_array(numbers * scale, "w"))
    return proto


def error(proto: ModelProto, plain: Path, inputs: Inputs) -> float:
    nets = [session(one.SerializeToString()) for one in (proto, onnx.load(plain))]
    found, wanted = (net.run(None, dict(inputs.arrays))[0] for net in nets)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_every_kind_change_less_on_other_samples(tmp_path, name: str):
    operator, shape, sample = LAYERS[name]
    plain, int8 = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    prepare(net(operator, shape, sample), plain)
    fitted, others = (samples(sample, seed) for seed in (1, 2))
    write_int8(plain, int8, fitted)
    before = error(rounded(plain, int8), plain, others)
    old = onnx.load(int8)
    assert round_to_outputs(plain, int8, fitted) == ()
    assert error(rounded(plain, int8), plain, others) < 0.8 * before
    # The weight's numbers alone are others.
    new = onnx.load(int8)
    assert new.graph.node == old.graph.node
    changed = [a.name for a, b in zip(new.graph.initializer, old.graph.initializer, strict=True) if a != b]
    assert changed == ["w_quantized"]
    onnx.checker.check_model(new)


def test_what_inputs_are_in_the_mean_counts(tmp_path):
    operator, shape, sample = LAYERS["fully connected"]
    plain, int8 = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    prepare(net(operator, shape, sample), plain)
    values = np.random.default_rng(1).normal(size=(64, *sample)) + 20
    inputs = Inputs({"data": values.astype(np.float32)}, Provenance("arrays")).batched(16)
    write_int8(plain, int8, inputs)
    before = error(rounded(plain, int8), plain, inputs)
    round_to_outputs(plain, int8, inputs)
    # Of independent inputs with a mean, errors of the sum alone can be undone.
    assert error(rounded(plain, int8), plain, inputs) < 0.4 * before


@pytest.mark.parametrize("memory", [0, 400_000])  # the latter holds covariances of strips
def test_layers_without_statistics_are_said_and_stay(tmp_path, monkeypatch, memory):
    operator, shape, sample = LAYERS["convolution"]
    plain, int8 = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    prepare(net(operator, shape, sample), plain)
    inputs = samples(sample, 1)
    write_int8(plain, int8, inputs)
    before = int8.read_bytes()
    monkeypatch.setattr("twofold.calibration.gather.free_memory", lambda: memory)
    (note,) = round_to_outputs(plain, int8, inputs)
    assert "1 layers are over the memory limit, and their weights are rounded one by one: layer" in note
    assert onnx.load_from_string(before).graph.initializer == onnx.load(int8).graph.initializer


def test_samples_that_are_no_numbers_leave_the_weights(tmp_path):
    operator, shape, sample = LAYERS["convolution"]
    plain, int8 = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    prepare(net(operator, shape, sample), plain)
    inputs = samples(sample, 1)
    write_int8(plain, int8, inputs)
    broken = np.where(np.arange(64).reshape(-1, 1, 1, 1) == 5, math.nan, inputs.arrays["data"])
    inputs = Inputs({"data": broken.astype(np.float32)}, Provenance("arrays")).batched(16)
    (note,) = round_to_outputs(plain, int8, inputs)
    assert note.startswith(
        "weights are rounded one by one, since the inputs of layers are not known: layer: sees"
    )


def test_what_is_seen_most_is_rounded_first_and_leaves_its_error_to_the_others():
    """Here it stands last; in the order in which they stand the columns gain half as much."""
    weight, scale = problem(30, 24)
    spread = np.geomspace(1, 20, 24)
    seen = moment(24) * np.outer(spread, spread)
    ours = change(round_columns(weight, scale, seen) * scale - weight, seen)
    assert ours.sum() < 0.4 * change(np.rint(weight / scale) * scale - weight, seen).sum()
