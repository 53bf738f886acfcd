"""Layers in branches, loops and functions: decomposed where that can be, else listed with a reason."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import TensorProto, helper
from tests.formats.onnx.small import assert_close, conv, image, model, run, tensor, weight, write

import twofold
from twofold.conv import ConvLayer, Skipped
from twofold.formats.onnx.model import OnnxModel

SIDE = (1, 16, 9, 9)
W = weight(16, 16, 3, 3)
PADS = {"pads": [1] * 4}


def value(name: str, shape: tuple[int, ...] = SIDE, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def body(source: str, target: str) -> list[onnx.NodeProto]:
    return [conv("inner", source, "made", "u", **PADS), helper.make_node("Relu", ["made"], [target], "relu")]


def branch() -> onnx.NodeProto:
    yes = helper.make_graph(body("q", "z"), "yes", [], [value("z")], [tensor("u", W)])
    no = helper.make_graph([helper.make_node("Relu", ["q"], ["z"], "pass")], "no", [], [value("z")])
    return helper.make_node("If", ["flag"], ["r"], "holds", then_branch=yes, else_branch=no)


def loop() -> onnx.NodeProto:
    flag = TensorProto.BOOL
    inner = helper.make_graph(
        [*body("state", "next"), helper.make_node("Identity", ["go"], ["on"], "on")], "body",
        [value("i", (), TensorProto.INT64), value("go", (), flag), value("state")],
        [value("on", (), flag), value("next")], [tensor("u", W)],
    )  # fmt: skip
    return helper.make_node("Loop", ["count", "flag", "q"], ["r"], "holds", body=inner)


def scan() -> onnx.NodeProto:
    """A scan over the rows of a batch of three, which are images."""
    inner = helper.make_graph(
        [helper.make_node("Unsqueeze", ["one", "zero"], ["wide"], "wide"), *body("wide", "narrow"),
         helper.make_node("Squeeze", ["narrow", "zero"], ["out"], "out")],
        "body", [value("one", SIDE[1:])], [value("out", SIDE[1:])], [tensor("u", W)],
    )  # fmt: skip
    return helper.make_node("Scan", ["q"], ["r"], "holds", body=inner, num_scan_inputs=1)


HOLDERS = {"If": branch, "Loop": loop, "Scan": scan}
CONSTANTS = {
    "first.w": weight(16, 16, 3, 3, seed=2), "last.w": weight(16, 16, 3, 3, seed=3),
    "flag": np.array(True), "count": np.array(2), "zero": np.array([0]),
}  # fmt: skip


def net(kind: str) -> onnx.ModelProto:
    """A convolution, one inside a node of another graph, and one after it."""
    nodes = [
        conv("first", "x", "q", "first.w", **PADS), HOLDERS[kind](), conv("last", "r", "y", "last.w", **PADS)
    ]  # fmt: skip
    read = {name for node in nodes for name in node.input} | ({"zero"} if kind == "Scan" else set())
    tensors = {name: array for name, array in CONSTANTS.items() if name in read}
    made = model(nodes, tensors, {"x": SIDE}, {"y": SIDE})
    onnx.checker.check_model(made, full_check=True)
    return made


def reasons(layers: tuple[ConvLayer | Skipped, ...]) -> Mapping[str, str]:
    return {one.name: one.reason for one in layers if isinstance(one, Skipped)}


@pytest.mark.parametrize("kind", HOLDERS)
def test_without_data_what_is_inside_is_decomposed(kind, tmp_path):
    path, x = write(tmp_path / "net.onnx", net(kind)), image(*SIDE)
    result = twofold.decompose(twofold.load(path), ranks={"*": "full"}, no_data=True)
    assert [choice.layer for choice in result.plan.choices] == ["first", "last", "inner"]
    result.save(tmp_path / "out")
    assert_close(run(tmp_path / "out" / "net.onnx", x=x), run(path, x=x))


@pytest.mark.parametrize("kind", HOLDERS)
def test_with_data_it_stays_and_says_why(kind, tmp_path):
    path, x = write(tmp_path / "net.onnx", net(kind)), np.concatenate([image(*SIDE)] * 4)
    result = twofold.decompose(
        twofold.load(path), ranks={"first": "full", "last": "full"}, schemes=("spatial",), data=x
    )
    assert reasons(result.plan.skipped) == {
        "inner": f"inside the {kind} 'holds', where nothing watches it; without data (no_data=True) it is "
        "decomposed"
    }
    result.save(tmp_path / "out")
    assert_close(run(tmp_path / "out" / "net.onnx", x=x[:1]), run(path, x=x[:1]))


def test_a_weight_that_is_used_inside_and_outside_stays_as_a_whole(tmp_path):
    made = net("If")
    yes = made.graph.node[1].attribute[0].g if made.graph.node[1].attribute[0].name == "then_branch" else None
    yes = yes or made.graph.node[1].attribute[1].g
    yes.node[0].input[1] = "first.w"
    del yes.initializer[:]
    path = write(tmp_path / "net.onnx", made)
    (first, last) = OnnxModel.load(path).convolutions()
    assert (first.sharers, first.inside, last.inside) == (("inner",), "the If 'holds'", "")
    data = np.concatenate([image(*SIDE)] * 4)
    result = twofold.decompose(twofold.load(path), ranks={"last": 4}, schemes=("spatial",), data=data)
    assert "inside the If 'holds'" in reasons(result.plan.skipped)["first"]


def function_model() -> onnx.ModelProto:
    """A function whose If holds a convolution beside its own, a product of results and one with a weight."""
    yes = helper.make_graph([conv("deep", "x", "z", "w", **PADS)], "yes", [], [value("z")])
    no = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "no", [], [value("z")])
    nodes = [
        conv("top", "x", "a", "w", **PADS),
        helper.make_node("MatMul", ["a", "a"], ["b"], "results"),
        helper.make_node("MatMul", ["b", "m"], ["c"], "weighted"),
        helper.make_node("If", ["flag"], ["d"], "holds", then_branch=yes, else_branch=no),
        helper.make_node("Add", ["c", "d"], ["y"], "sum"),
    ]
    opset = helper.make_opsetid("", 18)
    block = helper.make_function("local", "Block", ["x", "w", "m", "flag"], ["y"], nodes, [opset])
    twin = helper.make_function(
        "other", "Block", ["x", "w"], ["y"], [conv("top", "x", "y", "w", **PADS)], [opset]
    )
    made = model(
        [
            helper.make_node("Block", ["x", "w", "m", "flag"], ["r"], "block", domain="local"),
            helper.make_node("Block", ["r", "w"], ["s"], "twin", domain="other"),
            conv("last", "s", "y", "last.w", **PADS),
        ],
        {"w": W, "m": weight(9, 9), "flag": np.array(True), "last.w": CONSTANTS["last.w"]},
        {"x": SIDE}, {"y": SIDE}, functions=[block, twin],
    )  # fmt: skip
    made.opset_import.extend([helper.make_opsetid("local", 1), helper.make_opsetid("other", 1)])
    return made


@pytest.mark.parametrize("data", [None, np.concatenate([image(*SIDE)] * 4)], ids=["weights", "data"])
def test_layers_of_functions_are_listed_and_the_others_decomposed(data, tmp_path):
    path, x = write(tmp_path / "net.onnx", function_model()), image(*SIDE)
    how = {"no_data": True} if data is None else {"data": data}
    result = twofold.decompose(twofold.load(path), ranks={"last": "full"}, schemes=("spatial",), **how)
    inline = "inside the function 'Block'; inline it first, see onnx.inliner"
    names = ("Block/top", "Block/weighted", "Block/deep", "Block/top#2")
    assert reasons(result.plan.skipped) == dict.fromkeys(names, inline)
    result.save(tmp_path / "out")
    assert_close(run(tmp_path / "out" / "net.onnx", x=x), run(path, x=x))


def test_inlined_as_the_reason_says_they_are_layers_like_any(tmp_path):
    made = onnx.inliner.inline_local_functions(function_model())
    layers = OnnxModel.load(write(tmp_path / "net.onnx", made)).convolutions()
    assert [(layer.name, layer.sharers, layer.inside) for layer in layers] == [
        ("top__1", ("top__2", "deep__1"), "the If 'holds__1'"), ("weighted__1", (), ""), ("last", (), "")
    ]  # fmt: skip


def test_where_all_is_inside_synthetic_images_do_not_stand_in_the_way(tmp_path):
    made = net("If")
    made.graph.node[0].CopyFrom(helper.make_node("Relu", ["x"], ["q"], "first"))
    made.graph.node[2].CopyFrom(helper.make_node("Relu", ["r"], ["y"], "last"))
    model = twofold.load(write(tmp_path / "net.onnx", made))
    result = twofold.decompose(model, ranks={"inner": 4})
    assert result.plan.calibration is None
    assert "weights only, since no calibration is possible" in str(result.plan.notes)
    with pytest.raises(twofold.TwofoldError, match="inner: inside the If 'holds', where nothing watches it"):
        twofold.decompose(model, ranks={"inner": 4}, data=np.concatenate([image(*SIDE)] * 4))
