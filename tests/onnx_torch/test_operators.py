"""Every operator against ONNX's own test cases."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.backend.test.case.node import collect_testcases  # noqa: E402

from twofold.errors import OptionError  # noqa: E402
from twofold.onnx_torch import OnnxNet, UnsupportedError, operators, register  # noqa: E402
from twofold.onnx_torch.elementwise import TYPES  # noqa: E402

#: Where ONNX Runtime differs from the reference, we follow it: corners are those that are there.
ELSEWISE = {
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}


#: What no operator of ours computes in all its forms.
REFUSED = {"BatchNormalization", "CumSum", "Dropout", "MaxPool", "ReduceMax", "ReduceMin", "Resize"}


@pytest.fixture(scope="module")
def cases():
    """The cases of one node, by name, of the operators that are registered."""
    known = set(operators())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cases about values that overflow
        found = collect_testcases(None)
    return {case.name: case for case in found if case.name not in ELSEWISE and fits(case.model, known)}


def fits(model, known) -> bool:
    """Whether a case is one known node, on types that torch has."""
    values = (*model.graph.input, *model.graph.output)
    return (
        len(model.graph.node) == 1
        and model.graph.node[0].op_type in known
        and all(value.type.tensor_type.elem_type in TYPES for value in values)
        and all(value.type.tensor_type.elem_type != TensorProto.BFLOAT16 for value in values)  # numpy has not
    )


def plain(value) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def check(case) -> None:
    outputs = [value.name for value in case.model.graph.output]
    for inputs, expected in case.data_sets:
        names = [value.name for value in case.model.graph.input]
        feed = {
            one: torch.from_numpy(np.array(array))
            for one, array in zip(names, map(plain, inputs), strict=True)
        }
        found = OnnxNet(case.model, outputs)(feed)
        for output, one in zip(outputs, expected, strict=True):
            wanted = plain(one)
            assert tuple(found[output].shape) == np.shape(wanted)
            assert found[output].numpy().dtype == wanted.dtype
            np.testing.assert_allclose(found[output].numpy(), wanted, rtol=case.rtol, atol=1e-6)


def test_cases_of_onnx(cases):
    wrong, rejected = {}, {}
    for name, case in cases.items():
        try:
            check(case)
        except UnsupportedError as error:
            rejected[name] = (case.model.graph.node[0].op_type, str(error))
        except Exception as error:  # whatever it is: all that fail are told
            wrong[name] = f"{type(error).__name__}: {error}"
    assert wrong == {}
    assert {kind for kind, _ in rejected.values()} <= REFUSED, rejected
    assert len(cases) - len(rejected) > 500


def test_every_operator_has_a_case(cases):
    """But for those that ONNX has dropped, and for those whose cases are all of other types."""
    covered = {case.model.graph.node[0].op_type for case in cases.values()}
    assert set(operators()) - covered <= {"Upsample"}


def test_what_cannot_be_computed_is_named_at_once():
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Odd", ["a"], ["b"]),
             helper.make_node("Resize", ["b", "", "s"], ["y"], antialias=1)]  # fmt: skip
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1]), value("s", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph)
    with pytest.raises(UnsupportedError, match=r"Odd \(1 x, first 'b'\), Resize with antialias = 1"):
        OnnxNet(model, ["y"])
    found = OnnxNet(model, ["a"])({"x": torch.tensor([-1.0, 2.0])})
    assert found["a"].tolist() == [0, 2]
    with pytest.raises(OptionError, match="'Relu' is registered already"):
        register("Relu")(lambda node: abs)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_as_onnx_runtime_has_them(op_type, gates, direction):
    """ONNX's cases have few of both directions, and none of states that do not begin with 0 there."""
    onnxruntime = pytest.importorskip("onnxruntime")
    rng, count, hidden = np.random.default_rng(0), 1 + (direction == "bidirectional"), 4
    states = ["h", "c"] if op_type == "LSTM" else ["h"]
    shapes = {
        "x": (5, 2, 3), "w": (count, gates * hidden, 3), "r": (count, gates * hidden, hidden),
        "b": (count, 2 * gates * hidden), **dict.fromkeys(states, (count, 2, hidden)),
    }  # fmt: skip
    feed = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    attributes = {"linear_before_reset": 1} if op_type == "GRU" else {}
    outputs = ["y", *(f"{state}_last" for state in states)]
    node = helper.make_node(
        op_type, ["x", "w", "r", "b", "", *states], outputs, direction=direction, hidden_size=hidden,
        **attributes,
    )  # fmt: skip
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [value(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(outputs, feed)
    found = OnnxNet(model, outputs)({name: torch.from_numpy(array) for name, array in feed.items()})
    for name, one in zip(outputs, wanted, strict=True):
        np.testing.assert_allclose(found[name].numpy(), one, atol=1e-6)


def test_sequences_of_unlike_lengths_are_rejected():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("RNN", ["x", "w", "r", "", "n"], ["y"], hidden_size=2)], "g",
        [value("n", TensorProto.INT32, [2])], [value("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    feed = {"x": torch.ones(3, 2, 1), "w": torch.ones(1, 2, 1), "r": torch.ones(1, 2, 2)}
    net = OnnxNet(helper.make_model(graph), ["y"])
    assert net({**feed, "n": torch.tensor([3, 3], dtype=torch.int32)})["y"].shape == (3, 1, 2, 2)
    with pytest.raises(UnsupportedError, match="unlike lengths"):
        net({**feed, "n": torch.tensor([3, 2], dtype=torch.int32)})
