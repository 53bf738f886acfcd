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
