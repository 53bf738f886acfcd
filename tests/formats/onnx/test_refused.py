"""Layers that are not decomposed cost what they compute, and those whose cost is not known say so."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.formats.onnx.small import conv, model, weight, write

import twofold
from twofold.conv import ConvLayer, Skipped
from twofold.formats.onnx.model import OnnxModel

MS = {"domain": "com.microsoft"}
BYTES = np.ones((16, 24), np.uint8)
SCALE, ZERO = np.array(0.1, np.float32), np.array(0, np.uint8)
PACKED = {"K": 16, "N": 24, "bits": 4, "block_size": 16}
FILTER = np.ones((8, 16, 3, 3), np.uint8)
QUANTIZED = ["q", "s", "z", "w", "s", "z"]


def product(operator, names, tensors, macs, **attributes):
    """A case over (1, 7, 16) that ONNX Runtime runs: 16 to 24 features unless told otherwise."""
    return pytest.param(operator, names, tensors, macs, attributes, id=operator)


W = {"w": weight(16, 24)}
INTEGER = {"w": BYTES, "s": SCALE, "z": ZERO}
CASES = [
    product("Einsum", ["x", "w"], {"w": weight(24, 16)}, 7 * 16 * 24, equation="btc,oc->bto"),
    product("Einsum", ["w", "x"], {"w": weight(24, 16)}, 7 * 16 * 24, equation="oc,btc->bto"),
    product("Einsum", ["x", "w", "v"], {**W, "v": weight(24, 8)}, None, equation="btc,cd,de->bte"),
    product("FusedMatMul", ["x", "w"], {"w": weight(24, 16)}, 7 * 16 * 24, transB=1, alpha=0.5, **MS),
    product("FusedMatMul", ["x", "w"], {"w": weight(7, 24)}, 7 * 16 * 24, transA=1, **MS),
    product("FusedMatMul", ["x", "w"], {"w": weight(5, 16, 24)}, 5 * 7 * 16 * 24, **MS),
    product("FusedGemm", ["v", "w"], W, 7 * 16 * 24, activation="Relu", **MS),
    product(
        "MatMulNBits", ["x", "w", "scales"],
        {"w": np.zeros((24, 1, 8), np.uint8), "scales": np.ones(24, np.float32)}, 7 * 16 * 24, **PACKED, **MS,
    ),
    product("MatMulInteger", ["q", "w"], INTEGER, 7 * 16 * 24),
    product("QLinearMatMul", [*QUANTIZED, "s", "z"], INTEGER, 7 * 16 * 24),
    product("QGemm", ["v8", "s", "z", "w", "s", "z"], INTEGER, 7 * 16 * 24, **MS),
    product("ConvInteger", ["i8", "w"], {"w": FILTER}, 8 * 16 * 9 * 25),
    product("QLinearConv", [*QUANTIZED, "s", "z"], {**INTEGER, "w": FILTER}, 8 * 16 * 9 * 25),
    product("FusedConv", ["i", "w"], {"w": weight(8, 16, 3, 3)}, 8 * 16 * 9 * 25, activation="Relu", **MS),
    product("NhwcFusedConv", ["last", "w"], {"w": weight(8, 16, 3, 3)}, 8 * 16 * 9 * 25, **MS),
    product("SparseToDenseMatMul", ["x", "w"], W, None, **MS),
]  # fmt: skip


def net(operator, names, tensors, attributes):
    """A convolution that can be decomposed, and a node that gives what nothing reads but the caller."""
    image = (1, 16, 7, 7)
    shapes = {
        "x": (1, 7, 16), "q": (1, 7, 16), "v": (7, 16), "v8": (7, 16), "i": image, "i8": image,
        "last": (1, 7, 7, 16),
    }  # fmt: skip
    if operator == "QLinearConv":
        shapes["q"] = image
    read = next(name for name in names if name in shapes)
    kind = TensorProto.UINT8 if read in ("q", "v8", "i8") else TensorProto.FLOAT
    nodes = [
        conv("plain", "image", "p", "plain.w"),
        helper.make_node(operator, names, ["y"], "node", **attributes),
    ]
    made = model(nodes, {"plain.w": weight(32, 16, 3, 3), **tensors}, {"image": image}, {"p": None})
    made.graph.input.append(helper.make_tensor_value_info(read, kind, shapes[read]))
    made.graph.output.append(helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None))
    made.opset_import.add(domain="com.microsoft", version=1)
    return made


@pytest.mark.parametrize(("operator", "names", "tensors", "macs", "attributes"), CASES)
def test_what_stays_is_listed_with_its_cost(tmp_path, operator, names, tensors, macs, attributes):
    loaded = OnnxModel.load(write(tmp_path / "net.onnx", net(operator, names, tensors, attributes)))
    plain, stays = loaded.convolutions()
    assert isinstance(plain, ConvLayer)
    assert isinstance(stays, Skipped)
    assert (stays.name, stays.macs) == ("node", macs)
    assert any(word in stays.reason for word in (operator, "first factor", "an Einsum"))


def test_an_unknown_cost_is_said(tmp_path):
    made = net("SparseToDenseMatMul", ["x", "w"], W, MS)
    loaded = OnnxModel.load(write(tmp_path / "net.onnx", made))
    plan = twofold.decompose(loaded, macs=0.9, multiple=4, no_data=True).plan
    assert plan.macs_per == "image"
    assert "MACs of node are not known, and in no sum" in str(plan)
