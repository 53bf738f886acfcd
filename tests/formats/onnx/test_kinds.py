"""Gemm, MatMul and ConvTranspose nodes: the same outputs at full rank in ONNX Runtime, and what stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import twofold  # noqa: E402
from twofold.conv import Skipped  # noqa: E402
from twofold.formats.onnx.model import OnnxModel  # noqa: E402
from twofold.lowrank import SCHEMES  # noqa: E402


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def opened(folder: Path, kind: str, shape: tuple, weights: list[np.ndarray], **attributes) -> OnnxModel:
    names = ["w", "b"][: len(weights)]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *names], ["y"], "layer", **attributes)], "g",
        [info("x", TensorProto.FLOAT, shape)], [info("y", TensorProto.FLOAT, [None] * len(shape))],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, names, strict=True)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "net.onnx")
    return twofold.load(folder / "net.onnx")


def run(model: OnnxModel, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def check_full_rank(model: OnnxModel, x: np.ndarray, folder: Path) -> None:
    wanted, (layer,) = run(model, x), model.convolutions()
    taking = [name for name in SCHEMES if SCHEMES[name].rejection(layer.geometry) is None]
    assert taking
    for scheme in taking:
        result = twofold.decompose(model, ranks={"*": "full"}, schemes=scheme, no_data=True)
        result.save(folder / scheme)
        written = run(twofold.load(folder / scheme / "net.onnx"), x)
        np.testing.assert_allclose(written, wanted, rtol=0, atol=1e-5 * np.ptp(wanted))


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_every_gemm(tmp_path, turned, bias):
    weight = numbers(24, 30) if turned else numbers(30, 24)
    model = opened(tmp_path, "Gemm", (3, 30), [weight, numbers(24)][: 1 + bias], transB=turned)
    check_full_rank(model, numbers(3, 30, seed=1), tmp_path)


@pytest.mark.parametrize("shape", [(3, 30), (2, 5, 30), (2, 3, 4, 30), ("n", "t", 30)])
def test_every_matmul(tmp_path, shape):
    model = opened(tmp_path, "MatMul", shape, [numbers(30, 24)])
    (layer,) = model.convolutions()
    inner = [one for one in shape[1:-1] if isinstance(one, int)]
    assert layer.input_sizes == (((int(np.prod(inner)),),) if len(inner) == len(shape) - 2 else ())
    fed = [one if isinstance(one, int) else 3 for one in shape]
    check_full_rank(model, numbers(*fed, seed=1), tmp_path)


def test_a_product_of_results_is_no_layer(tmp_path):
    model = opened(tmp_path, "MatMul", (30, 30), [])
    del model.proto.graph.node[0].input[1:]
    model.proto.graph.node[0].input.append("x")
    onnx.save(model.proto, tmp_path / "squared.onnx")
    assert twofold.load(tmp_path / "squared.onnx").convolutions() == ()


def test_a_fit_to_sequences_is_corrected_by_a_bias_of_its_own(tmp_path):
    """What the rank loses has a mean; MatMul has no place for it, so an Add follows."""
    model = opened(tmp_path, "MatMul", ("n", 6, 64), [numbers(64, 48)])
    given, holdout = (1 + correlated(6 * n, seed).reshape(n, 6, 64) for n, seed in ((64, 4), (16, 5)))
    one = {"ranks": {"layer": 8}, "schemes": "channel"}
    fitted = twofold.decompose(model, data={"x": given}, **one)
    assert [node.op_type for node in fitted.model.proto.graph.node] == ["MatMul", "MatMul", "Add"]
    fitted.save(tmp_path / "out")
    wanted = run(model, holdout)
    written = run(twofold.load(tmp_path / "out" / "net.onnx"), holdout)
    blind = run(twofold.decompose(model, no_data=True, **one).model, holdout)
    lost = [np.linalg.norm(found - wanted) for found in (written, blind)]
    assert lost[0] < 0.5 * lost[1]
    assert abs((written - wanted).mean()) < 0.05 * np.abs(blind - wanted).mean()


@pytest.mark.parametrize(("axes", "groups"), [(1, 2), (2, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize(
    "attributes",
    [
        {}, {"strides": [2, 2, 1], "pads": [1, 1, 0, 1, 0, 1]},
        {"strides": [2, 3, 2], "output_padding": [1, 2, 0]}, {"dilations": [2, 1, 2]},
    ],
)  # fmt: skip
def test_every_transposed_geometry(tmp_path, axes, groups, attributes):
    cut = {
        name: (value[:axes] if len(value) == 3 else [*value[:axes], *value[3 : 3 + axes]])
        for name, value in attributes.items()
    }
    weights = [numbers(8, 6 // groups, *(3, 4, 2)[:axes]), numbers(6, seed=1)]
    shape = (2, 8, *(5, 6, 4)[:axes])
    model = opened(tmp_path, "ConvTranspose", shape, weights, group=groups, **cut)
    x = numbers(*shape, seed=2)
    (layer,) = model.convolutions()
    assert layer.geometry.output_size(layer.input_sizes[0]) == run(model, x).shape[2:]
    check_full_rank(model, x, tmp_path)


def correlated(count: int, seed: int) -> np.ndarray:
    return numbers(count, 8, seed=seed) @ numbers(8, 64, seed=3) + 0.1 * numbers(count, 64, seed=seed)


def test_a_fit_to_data_beats_one_to_weights(tmp_path):
    model = opened(tmp_path, "Gemm", ("n", 64), [numbers(64, 48), numbers(48)])
    holdout = correlated(64, 5)
    one = {"ranks": {"layer": 8}, "schemes": "channel"}
    fitted = twofold.decompose(model, data={"x": correlated(256, 4)}, **one)
    blind = twofold.decompose(model, no_data=True, **one)
    wanted = run(model, holdout)
    lost = [np.linalg.norm(run(one.model, holdout) - wanted) for one in (fitted, blind)]
    assert lost[0] < 0.5 * lost[1]


@pytest.mark.parametrize(
    ("kind", "weights", "attributes", "reason"),
    [
        ("Gemm", (16, 16), {"alpha": 0.5}, "it scales by alpha = 0.5"),
        ("Gemm", (16, 16), {"transA": 1}, "it transposes its input"),
        ("MatMul", (2, 16, 16), {}, "its weight has the shape [2, 16, 16]"),
        ("ConvTranspose", (16, 16, 3, 3), {"auto_pad": "SAME_UPPER"}, "its pads follow from the size"),
        ("ConvTranspose", (16, 16, 3, 3), {"output_shape": [6, 6]}, "its pads follow from the size"),
    ],
)
def test_what_stays(tmp_path, kind, weights, attributes, reason):
    shape = (16, 16) if kind != "ConvTranspose" else (1, 16, 5, 5)
    (skipped,) = opened(tmp_path, kind, shape, [numbers(*weights)], **attributes).convolutions()
    assert isinstance(skipped, Skipped)
    assert reason in skipped.reason
