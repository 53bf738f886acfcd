"""Weights and biases that are constant expressions, and models of old versions, as they come out again."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from tests.formats.onnx.small import assert_close, conv, image, model, run, tensor, weight, write  # noqa: E402

import twofold  # noqa: E402
from twofold.conv import ConvLayer, Skipped  # noqa: E402

make = helper.make_node
W = weight(24, 20, 3, 3)
SHAPES = {"shape": np.array([24, 20, 3, 3])}


def halves():
    half = np.array([2], np.int64)
    return {
        "a": W[:12].reshape(12, 20, 9),
        "b": W[12:, :, None],
        "two": half,
        "shape": np.array([12, 20, 3, 3]),
    }


#: What makes `w` -> its nodes and the tensors that they read.
EXPRESSIONS = {
    "Cast": ([make("Cast", ["h"], ["w"], to=TensorProto.FLOAT)], {"h": W.astype(np.float16)}),
    "Transpose": ([make("Transpose", ["h"], ["w"], perm=[3, 2, 0, 1])], {"h": W.transpose(2, 3, 1, 0)}),
    "Reshape": ([make("Reshape", ["h", "shape"], ["w"])], {"h": W.ravel(), **SHAPES}),
    "Identity": (
        [make("Identity", ["h"], ["g"]), make("Transpose", ["g"], ["f"]), make("Identity", ["f"], ["w"])],
        {"h": W.T},
    ),
    "ConstantOfShape": (
        [make("ConstantOfShape", ["shape"], ["w"], value=tensor("", np.full(1, 0.1, "f")))],
        SHAPES,
    ),
    "DequantizeLinear": (
        [make("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0)],
        {
            "q": np.round(100 * W).astype(np.int8), "s": np.full(24, 0.01, np.float32),
            "z": np.zeros(24, np.int8),
        },
    ),
    "value_floats": (
        [make("Constant", [], ["f"], value_floats=W.ravel()), make("Reshape", ["f", "shape"], ["w"])],
        SHAPES,
    ),
    "Concat, Squeeze, Mul": (
        [
            make("Squeeze", ["b", "two"], ["c"]), make("Reshape", ["a", "shape"], ["d"]),
            make("Concat", ["d", "c"], ["e"], axis=0), make("Mul", ["e", "scale"], ["w"]),
        ],
        {**halves(), "scale": weight(24, 1, 1, 1)},
    ),
    "one part of Split": (
        [make("Split", ["h"], ["w", "rest"], axis=0, num_outputs=2)], {"h": np.concatenate([W, W])},
    ),
}  # fmt: skip


def full_rank(path, out):
    """Written at the highest ranks, which changes nothing but the form."""
    result = twofold.decompose(twofold.load(path), ranks={"*": "full"}, multiple=1, no_data=True)
    return result.save(out)[0]


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_weights_that_are_computed_of_constants(tmp_path, name):
    nodes, tensors = EXPRESSIONS[name]
    made = model([*nodes, conv("c", "x", "y", "w")], tensors, {"x": (1, 20, 9, 9)}, {"y": None})
    path = write(tmp_path / "net.onnx", made)
    written = full_rank(path, tmp_path / "out")
    graph = onnx.load(written).graph
    assert [node.op_type for node in graph.node] == ["Conv", "Conv"]
    assert len(graph.initializer) == 2
    x = {"x": image(1, 20, 9, 9)}
    assert_close(run(written, **x), run(path, **x))


def test_what_others_read_stays(tmp_path):
    """The second convolution's weight is the first one's before it was turned; nothing else changes."""
    nodes = [
        make("Transpose", ["h"], ["t"], perm=[1, 0, 2, 3]),
        conv("a", "x", "y", "t"), conv("b", "y", "z", "h"),
        make("Shape", ["h"], ["s"]), make("Identity", ["s"], ["out"]),
    ]  # fmt: skip
    made = model(nodes, {"h": W}, {"x": (1, 24, 9, 9)}, {"z": None})
    made.graph.output.append(helper.make_tensor_value_info("out", TensorProto.INT64, [4]))
    path = write(tmp_path / "net.onnx", made)
    assert [type(one) for one in twofold.load(path).convolutions()] == [ConvLayer, Skipped]
    written = full_rank(path, tmp_path / "out")
    assert [node.op_type for node in onnx.load(written).graph.node] == ["Conv"] * 3 + ["Shape", "Identity"]
    x = {"x": image(1, 24, 9, 9)}
    assert_close(run(written, **x), run(path, **x))


def test_sparse_weights(tmp_path):
    """By position in the flat tensor, and by coordinates."""
    flat = helper.make_sparse_tensor(
        tensor("w1", np.ones(3, "f")), tensor("", np.array([0, 100, 2000])), [16, 16, 3, 3]
    )
    places = tensor("", np.array([[0, 0, 1, 2], [15, 15, 0, 0]]))
    coordinates = helper.make_sparse_tensor(tensor("w2", np.ones(2, "f")), places, [16, 16, 3, 3])
    made = model(
        [conv("a", "x", "b", "w0"), conv("b", "b", "c", "w1"), conv("c", "c", "y", "w2")],
        {"w0": weight(16, 3, 3, 3)}, {"x": (1, 3, 16, 16)}, {"y": None},
    )  # fmt: skip
    made.graph.sparse_initializer.extend([flat, coordinates])
    path = write(tmp_path / "net.onnx", made)
    layers = {layer.name: layer for layer in twofold.load(path).convolutions()}
    assert sorted(zip(*np.nonzero(layers["c"].weight), strict=True)) == [(0, 0, 1, 2), (15, 15, 0, 0)]
    x = image(18, 3, 16, 16)
    result = twofold.decompose(twofold.load(path), ranks={"*": "full"}, multiple=1, data=x)
    assert result.plan.measured_error < 1e-4
    written = result.save(tmp_path / "out")[0]
    assert not onnx.load(written).graph.sparse_initializer
    assert_close(run(written, x=x[:1]), run(path, x=x[:1]))


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
@pytest.mark.parametrize("opset", [7, 9, 11, 13, 23])
def test_fully_connected_layers_of_every_version(tmp_path, operator, opset):
    """Those in which one of the two changed, and a new one; before 11 no Gemm is without a bias."""
    more = {"transB": 1} if operator == "Gemm" else {}
    rest = ["w", "b"] if operator == "Gemm" else ["w"]
    w = weight(40, 32)
    tensors = {"w": w if operator == "Gemm" else w.T, "b": weight(40, 1).ravel()}
    made = model(
        [make(operator, ["x", *rest], ["y"], "fc", **more)], {name: tensors[name] for name in rest},
        {"x": ("n", 32)}, {"y": None}, opset=opset, ir=3 if opset < 9 else 8,
    )  # fmt: skip
    for name in rest if opset < 9 else ():
        shape = tensors[name].shape
        made.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    path = write(tmp_path / "net.onnx", made)
    onnx.checker.check_model(made, full_check=True)
    x = image(40, 32) + 1
    result = twofold.decompose(twofold.load(path), ranks={"fc": 31}, multiple=1, data=x)
    assert list(result.model.replaced) == ["fc"]
    (expected,) = run(path, x=x)
    (found,) = run(result.save(tmp_path / "out")[0], x=x)
    assert np.linalg.norm(found - expected) < 0.2 * np.linalg.norm(expected)


def test_operators_that_broadcast_only_where_they_are_told_to(tmp_path):
    """Gemm of version 6, which ONNX Runtime does not run."""
    shapes = {"x": ("n", 32), "w": (40, 32), "b": (40,)}
    made = model(
        [make("Gemm", ["x", "w", "b"], ["y"], "fc", transB=1, broadcast=1)],
        {"w": weight(40, 32), "b": weight(40, 1).ravel()}, shapes, {"y": None}, opset=6, ir=3,
    )  # fmt: skip
    path = write(tmp_path / "net.onnx", made)
    written = full_rank(path, tmp_path / "out")
    x = {"x": image(3, 32)}
    found, expected = (ReferenceEvaluator(str(one)).run(None, x) for one in (written, path))
    assert_close(found, expected)
