"""What cannot be calibrated is rejected in one line before the work; what is only unusual is decomposed."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.formats.onnx.small import conv, image, model, weight, write

import twofold
from twofold.errors import TwofoldError
from twofold.inspect import inspect

pytest.importorskip("torch")
make = helper.make_node
CONVS = {"one.w": weight(16, 3, 3, 3), "two.w": weight(32, 16, 3, 3)}
IMAGES = image(18, 3, 6, 6)


@pytest.fixture(autouse=True)
def _without_times(monkeypatch):
    monkeypatch.setattr(importlib.import_module("twofold.compare"), "installed", lambda: ())


def net(source="x", before=(), name="one", **more):
    nodes = [*before, conv(name, source, "a", "one.w"), conv("two", "a", "y", "two.w")]
    return model(nodes, CONVS, {"x": (1, 3, 6, 6)}, {"y": None}, **more)


def typed(kind):
    made = net()
    made.graph.input[0].type.tensor_type.elem_type = kind
    return made, IMAGES


def without_weight():
    made = net()
    made.graph.node[0].input[1] = ""
    return made, IMAGES


def tokens(most):
    """Two tables of vectors, one by ids and one by kinds, and a mask: three inputs of whole numbers."""
    nodes = [
        make("Gather", ["table", "ids"], ["e"]), make("Gather", ["few", "kinds"], ["k"]),
        make("Add", ["e", "k"], ["s"]), make("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        make("Unsqueeze", ["m", "last"], ["column"]), make("Mul", ["s", "column"], ["t"]),
        make("MatMul", ["t", "w"], ["y"], "fc"),
    ]  # fmt: skip
    tensors = {"table": weight(20, 32), "few": weight(2, 32), "w": weight(32, 48), "last": np.array([2])}
    inputs = {"ids": ("n", 5), "kinds": ("n", 5), "mask": ("n", 5)}
    made = model(nodes, tensors, inputs, {"y": (None, None, None)}, kind=TensorProto.INT64)
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    rng = np.random.default_rng(0)
    return made, {
        "ids": rng.integers(0, most, (40, 5)), "kinds": rng.integers(0, 2, (40, 5)),
        "mask": rng.integers(0, 2, (40, 5)),
    }  # fmt: skip


def products(opset):
    made = model([make("MatMul", ["x", "w"], ["y"], "fc")], {"w": weight(32, 48)}, {"x": ("n", 32)},
                 {"y": None}, opset=opset, ir=4)  # fmt: skip
    return made, image(80, 32)


def channels_last():
    before = [make("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])]
    made = net("t", before)
    for dim, size in zip(made.graph.input[0].type.tensor_type.shape.dim, (1, 6, 6, 3), strict=True):
        dim.dim_value = size
    return made, np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (lambda: typed(TensorProto.STRING), "input 'x' is of type STRING"),
        (lambda: typed(TensorProto.UNDEFINED), "input 'x' is of type UNDEFINED"),
        (without_weight, "does not run"),
        (lambda: tokens(99), "index out of range"),
        (lambda: products(6), "MatMul of version 6; convert the model first"),
    ],
    ids=["text", "no type", "no weight", "ids out of range", "version 6"],
)
def test_rejected_in_a_line(tmp_path, case, message):
    made, data = case()
    loaded = twofold.load(write(tmp_path / "net.onnx", made))
    assert str(inspect(loaded))
    twofold.decompose(loaded, macs=0.8, multiple=4, no_data=True)
    with pytest.raises(TwofoldError, match=message) as caught:
        twofold.decompose(loaded, macs=0.8, multiple=4, data=data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "case",
    [lambda: tokens(20), lambda: products(7), channels_last, lambda: (net(name="two"), None),
     lambda: (net(name=""), IMAGES)],
    ids=["whole numbers", "version 7", "channels last", "one name twice", "no name"],
)  # fmt: skip
def test_unusual_but_right(tmp_path, case):
    made, data = case()
    loaded = twofold.load(write(tmp_path / "net.onnx", made))
    assert len({layer.name for layer in loaded.convolutions()}) == len(loaded.convolutions())
    given = {"no_data": True} if data is None else {"data": data}
    result = twofold.decompose(loaded, macs=0.8, multiple=4, **given)
    assert result.plan.choices
    if data is not None:
        (found,) = twofold.compare(loaded, result, data=data).outputs[-1:]
        assert 0 < found.error < 0.6
