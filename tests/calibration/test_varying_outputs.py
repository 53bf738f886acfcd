"""Outputs whose size depends on the values: what stands before them is protected, and lists are compared."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402
from tests.formats.onnx.small import conv, model, weight, write  # noqa: E402
from torch import nn  # noqa: E402

import twofold  # noqa: E402
from twofold.calibration.detections import box_lists  # noqa: E402
from twofold.calibration.runners import runner_for  # noqa: E402
from twofold.calibration.runners.onnx.varying import varying_values  # noqa: E402
from twofold.errors import OptionError  # noqa: E402

make = helper.make_node


@pytest.fixture(autouse=True)
def _without_times(monkeypatch):
    monkeypatch.setattr(importlib.import_module("twofold.compare"), "installed", lambda: ())


def found(nodes, outputs):
    """Two convolutions that give `b`, and what nodes make of it."""
    tensors = {
        "w1": weight(16, 3, 3, 3), "w2": weight(16, 16, 3, 3), "t": np.array(0.5, np.float32),
        "zero": np.array([0]), "shape": np.array([1, 64, 4]), "turned": np.array([1, 1, 256]),
        "most": np.array([20]), "overlap": np.array([0.5], np.float32), "minus": np.array([-1]),
        "stop": np.array([64]), "axis": np.array([2]),
    }  # fmt: skip
    head = [conv("c1", "x", "a", "w1", pads=[1] * 4), conv("c2", "a", "b", "w2", pads=[1] * 4)]
    made = model([*head, *nodes], tensors, {"x": ("n", 3, 4, 4)}, {})
    made.graph.output.extend(helper.make_tensor_value_info(one, kind, None) for one, kind in outputs.items())
    return made


def compressed():
    nodes = [
        make("Greater", ["b", "t"], ["m"]), make("NonZero", ["m"], ["i"]),
        make("Transpose", ["i"], ["j"], perm=[1, 0]), make("GatherND", ["b", "j"], ["y"]),
    ]  # fmt: skip
    return found(nodes, {"y": TensorProto.FLOAT})


def suppressed():
    nodes = [
        make("Reshape", ["b", "shape"], ["boxes"]), make("Sigmoid", ["b"], ["p"]),
        make("Reshape", ["p", "turned"], ["flat"]),
        make("Slice", ["flat", "zero", "stop", "axis"], ["scores"]),
        make("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["y"]),
    ]  # fmt: skip
    return found(nodes, {"y": TensorProto.INT64})


def best():
    """As many of the largest values as are positive."""
    nodes = [
        make("Greater", ["b", "t"], ["m"]), make("Cast", ["m"], ["ones"], to=TensorProto.INT64),
        make("ReduceSum", ["ones"], ["k"], keepdims=0), make("Reshape", ["k", "minus"], ["count"]),
        make("Reshape", ["b", "minus"], ["all"]), make("TopK", ["all", "count"], ["y", "places"]),
    ]  # fmt: skip
    return found(nodes, {"y": TensorProto.FLOAT})


def of_sizes():
    """Sizes that come from a shape do not depend on values."""
    nodes = [
        make("Shape", ["x"], ["s"]), make("Gather", ["s", "zero"], ["n"]),
        make("Concat", ["n", "minus"], ["rows"], axis=0), make("Reshape", ["b", "rows"], ["y"]),
    ]  # fmt: skip
    return found(nodes, {"y": TensorProto.FLOAT})


@pytest.mark.parametrize("made", [compressed, suppressed, best])
def test_what_stands_before_is_protected_and_said(tmp_path, made):
    proto, x = made(), 10 * weight(18, 3, 4, 4)
    if made is suppressed:  # one image at a time, as its own shapes want it
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    loaded = twofold.load(write(tmp_path / "net.onnx", proto))
    result = twofold.decompose(loaded, macs=0.6, multiple=4, data=x, schemes="spatial")
    assert set(result.plan.calibration["measured"]["outputs"]) <= {"b", "scores"}
    assert 0 < result.plan.measured_error < 1.5
    assert any("depends on the values" in note and "'b'" in note for note in result.plan.notes)
    first, again, more = next(
        one.boxes for one in twofold.compare(loaded, loaded, data=x).outputs if one.boxes
    )
    assert first == again > 0 == more
    assert "b" in {one.name for one in twofold.compare(loaded, result, data=x).outputs}
    with pytest.raises(OptionError, match=r"size of 'y' depends on the values.*targets"):
        twofold.decompose(loaded, macs=0.6, multiple=4, data=x, targets="y")


def test_sizes_of_shapes_are_fixed(tmp_path):
    assert not varying_values(of_sizes())
    assert runner_for(twofold.load(write(tmp_path / "net.onnx", of_sizes()))).outputs == ("b",)


class Detector(nn.Module):
    """Boxes of every position of an image whose score is above a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold
        self.a, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.h = nn.Conv2d(16, 5, 3, padding=1)

    def forward(self, x):
        found = []
        for one in self.h(self.b(self.a(x).relu()).relu()):
            keep = one[0].flatten() > self.threshold
            found.append({"scores": one[0].flatten()[keep], "boxes": one[1:].flatten(1)[:, keep].T})
        return found


@pytest.mark.parametrize("threshold", [0.05, 9.0])
def test_a_module_that_returns_lists(threshold):
    """Some boxes, and none."""
    torch.manual_seed(0)
    net, x = Detector(threshold), torch.rand(18, 3, 16, 16)
    result = twofold.decompose(net, macs=0.5, multiple=4, data=x, schemes="spatial")
    assert result.plan.calibration["measured"]["outputs"] == ["h"]
    with torch.no_grad():
        before, after = (one.h(one.b(one.a(x).relu()).relu()) for one in (net, result.model.module))
    error = float((before - after).norm() / (before - before.mean()).norm())
    assert result.plan.measured_error == pytest.approx(error, rel=0.3)
    compared = twofold.compare(net, result, data=x[:4])
    assert [one.name for one in compared.outputs] == ["h", "0.boxes"]


def test_inner_modules_are_protected_by_name():
    net, x = Detector(0.05), torch.rand(18, 3, 16, 16)
    plan = twofold.decompose(net, macs=0.5, multiple=4, data=x, targets="b", schemes="spatial").plan
    assert plan.calibration["measured"]["outputs"] == ["b"]
    with pytest.raises(OptionError, match="no module of that name"):
        twofold.decompose(net, macs=0.5, multiple=4, data=x, targets="c")


def test_lists_of_boxes_in_every_form():
    """The same two boxes: corners, scores and classes apart, as rows, and as rows with their image."""
    corners = np.array([[0, 0, 2, 2], [1, 1, 4, 5]], np.float32)
    score, kind = np.array([0.5, 0.75], np.float32), np.array([1, 0], np.float32)
    wanted = np.column_stack([[0, 0], kind, score, corners])
    forms = {
        "apart": {"0.boxes": corners, "0.scores": score, "0.labels": kind},
        "rows": {"y": np.column_stack([corners, score, kind])},
        "rows with image": {"y": np.column_stack([[0, 0], corners, kind, score])},
    }
    for outputs in forms.values():
        (rows,) = box_lists(outputs, outputs).values()
        np.testing.assert_array_equal(rows, wanted)
