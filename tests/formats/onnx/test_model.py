"""ONNX models: which convolutions there are, and what replacing them keeps."""

from __future__ import annotations

import itertools
import re
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tests.formats.onnx.small import assert_close, conv, image, model, run, tensor, two, weight, write

import twofold
from twofold.conv import ConvGeometry, Skipped
from twofold.decomposition.apply import apply_plan
from twofold.decomposition.decompose import decompose as decompose_anyhow
from twofold.decomposition.result import Result
from twofold.errors import FormatError, ModelError, OutputError
from twofold.formats.onnx.model import OnnxModel
from twofold.lowrank import SCHEMES

#: How files are edited is tested here, not how factors are fitted.
decompose = partial(decompose_anyhow, no_data=True)


def full(path: Path, **options) -> Result[OnnxModel]:
    """Every layer that a scheme takes, at full rank."""
    return decompose(OnnxModel.load(path), ranks={"*": "full"}, **options)


def check_full_rank(path: Path, x: dict[str, np.ndarray], tolerance: float = 1e-5, **options) -> OnnxModel:
    """Decompose at full rank, write, and compare what ONNX Runtime gives; returns what was written."""
    result = full(path, **options)
    assert result.plan.choices
    (written, _) = result.save(path.parent / "out")
    onnx.checker.check_model(str(written), full_check=True)
    assert_close(run(written, **x), run(path, **x), tolerance)
    return OnnxModel.load(written)


def names(proto: onnx.ModelProto) -> list[str]:
    return [node.name for node in proto.graph.node]


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_full_rank_gives_the_same_output(tmp_path, scheme):
    path = write(tmp_path / "net.onnx", two())
    written = check_full_rank(path, {"x": image(1, 16, 12, 12)}, schemes=scheme)
    variant = SCHEMES[scheme].variants(ConvGeometry.of(64, 16, (3, 3)))[0]
    count = len(SCHEMES[scheme].chain(ConvGeometry.of(64, 16, (3, 3)), variant, (1, 1)))
    assert names(written.proto) == [
        *(f"one_{i}" for i in range(count)), "relu", *(f"two_{i}" for i in range(count))
    ]  # fmt: skip
    assert [layer.name for layer in written.convolutions()] == [
        n for n in names(written.proto) if n != "relu"
    ]


KERNELS = {1: (3,), 2: (3, 2), 3: (2, 3, 2)}
PADS = {
    "none": {},
    "asymmetric": {"pads": (0, 1, 2, 3, 0, 1)},
    "upper": {"auto_pad": "SAME_UPPER"},
    "lower": {"auto_pad": "SAME_LOWER"},
    "valid": {"auto_pad": "VALID"},
}


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "total"),
    [(4, 1, 1, 3), (3, 1, 2, 4), (2, 1, 3, 3), (3, 2, 1, 1), (2, 5, 1, 0)],
)
def test_same_pads_lie_on_the_side_that_is_named(tmp_path, kernel, stride, dilation, total):
    """As ONNX defines them: ceil(12 / stride) outputs of 12 values, an odd pad behind (UPPER) or before."""
    for mode, (before, behind) in {
        "UPPER": (total // 2, -(-total // 2)),
        "LOWER": (-(-total // 2), total // 2),
    }.items():
        node = conv("one", "x", "y", "w", auto_pad=f"SAME_{mode}", strides=[stride], dilations=[dilation])
        made = model(
            [node], {"w": weight(16, 16, kernel)}, {"x": (1, 16, 12)}, {"y": (1, 16, -(-12 // stride))}
        )
        (layer,) = OnnxModel.load(write(tmp_path / f"{mode}.onnx", made)).convolutions()
        assert layer.geometry.pad == ((before, behind),)


STEPS = [(1, 1), (2, 1), (1, 2), (3, 1)]
BIASES = [(False, 1), (True, 1), (True, 2)]
#: Every pair of a padding, steps, a number of axes, and bias and groups that ONNX Runtime runs.
COMBINED = [
    (1 + number % len(KERNELS), pads, steps, BIASES[(number + number // 3) % len(BIASES)])
    for number, (pads, steps) in enumerate(itertools.product(PADS, STEPS))
    if steps[1] == 1 or pads not in ("upper", "lower")
]


@pytest.mark.parametrize(("axes", "pads", "steps", "biases"), COMBINED)
def test_every_geometry(tmp_path, axes, pads, steps, biases):
    (stride, dilation), (bias, groups) = steps, biases
    kernel = KERNELS[axes]
    attributes = {key: value[: 2 * axes] if key == "pads" else value for key, value in PADS[pads].items()}
    moved = {"strides": [stride] * axes, "dilations": [dilation] * axes, "group": groups}
    rest = ["w", "b"] if bias else ["w"]
    tensors = {"w": weight(6, 6 // groups, *kernel), "b": weight(6, 1).ravel()}
    made = model(
        [conv("c", "x", "y", *rest, **moved, **attributes)],
        {name: tensors[name] for name in rest},
        {"x": (2, 6, 11, 12, 13)[: axes + 2]},
        {"y": None},
    )
    path = write(tmp_path / "net.onnx", made)
    x = {"x": image(*(2, 6, 11, 12, 13)[: axes + 2])}
    (layer,) = OnnxModel.load(path).convolutions()
    assert layer.geometry.output_size(layer.input_sizes[0]) == run(path, **x)[0].shape[2:]
    for scheme, kind in SCHEMES.items():
        if kind.rejection(layer.geometry) is None:
            written = check_full_rank(path, x, schemes=scheme)
            assert all(new.input_sizes for new in written.convolutions())
            (path.parent / "out" / "net.onnx").unlink()
            (path.parent / "out" / "plan.json").unlink()


def as_initializer(array):
    return [], {"w": array}


def as_constant(array):
    return [helper.make_node("Constant", [], ["w"], "k", value=tensor("", array))], {}


def through_identity(array):
    nodes = [helper.make_node("Identity", ["v"], ["u"]), helper.make_node("Identity", ["u"], ["w"])]
    return nodes, {"v": array}


def constant_through_identity(array):
    made = [helper.make_node("Constant", [], ["v"], value=tensor("", array))]
    return [*made, helper.make_node("Identity", ["v"], ["w"])], {}


@pytest.mark.parametrize("store", [as_initializer, as_constant, through_identity, constant_through_identity])
def test_weights_wherever_they_are_and_nothing_is_left_behind(tmp_path, store):
    before, tensors = store(weight(8, 6, 3, 3))
    made = model([*before, conv("c", "x", "y", "w")], tensors, {"x": (1, 6, 9, 9)}, {"y": None})
    path = write(tmp_path / "net.onnx", made)
    written = check_full_rank(path, {"x": image(1, 6, 9, 9)}).proto
    types = [node.op_type for node in written.graph.node]
    constant = "Constant" in [node.op_type for node in before]
    assert types == (["Constant"] * 2 if constant else []) + ["Conv"] * 2
    assert len(written.graph.initializer) == (0 if constant else 2)


def test_everything_else_stays_as_it_was(tmp_path):
    made = two(producer_name="someone", doc_string="a net", model_version=7, domain="org.example")
    made.metadata_props.add(key="names", value="{0: 'cat'}")
    made.opset_import.add(domain="org.example", version=3)
    made.graph.doc_string = "the graph"
    made.graph.node[2].doc_string = "second"
    made.graph.node[2].metadata_props.add(key="scope", value="net.two")
    made.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 64, 12, 12]))
    made.training_info.add().initialization.name = "start"
    made.graph.sparse_initializer.add().CopyFrom(
        helper.make_sparse_tensor(tensor("s", np.ones(1, np.float32)), tensor("i", np.array([2])), [4])
    )
    # A field that this version of ONNX does not know: number 1000, a varint.
    content = made.SerializeToString() + b"\xc0\x3e\x2a"
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    result = decompose(OnnxModel.load(path), ranks={"two": 8}, only="two")
    new = result.save(tmp_path / "out")[0].read_bytes()
    assert new.endswith(b"\xc0\x3e\x2a")
    written, old = onnx.ModelProto.FromString(new), onnx.ModelProto.FromString(content)
    assert names(written) == ["one", "relu", "two_0", "two_1"]
    assert [node.doc_string for node in written.graph.node] == ["", "", "second", "second"]
    assert written.graph.node[3].metadata_props == old.graph.node[2].metadata_props
    assert [t.name for t in written.graph.initializer] == ["one.w", "one.b", "two.w_0", "two.w_1", "two.b"]
    for proto in (written, old):
        for field in ("node", "initializer"):
            proto.graph.ClearField(field)
    assert {v.name for v in written.graph.value_info} == {"a", "two_0_output"}
    del written.graph.value_info[1:]
    assert written == old


def test_nothing_to_replace_copies_the_bytes(tmp_path):
    made = model([conv("c", "x", "y", "w")], {"w": weight(8, 6, 1, 1)}, {"x": (1, 6, 9, 9)}, {"y": None})
    path = write(tmp_path / "net.onnx", made)
    result = decompose(OnnxModel.load(path), schemes="spatial", no_data=True)
    assert not result.plan.choices
    assert result.save(tmp_path / "out")[0].read_bytes() == path.read_bytes()


def test_shapes_of_new_values_are_written_and_right(tmp_path):
    made = two()
    made.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 64, 12, 12]))
    written = check_full_rank(write(tmp_path / "net.onnx", made), {"x": image(1, 16, 12, 12)}).proto
    infos = {value.name: value.type.tensor_type.shape.dim for value in written.graph.value_info}
    assert infos["one_0_output"][0].dim_param == "batch"
    assert [dim.dim_value for dim in infos["one_0_output"][1:]] == [48, 12, 12]


def test_half_precision_stays(tmp_path):
    tensors = {"w": weight(24, 20, 3, 3, dtype=np.float16), "b": weight(24, 1, dtype=np.float16).ravel()}
    nodes, kind = [conv("c", "x", "y", "w", "b")], TensorProto.FLOAT16
    path = write(tmp_path / "net.onnx", model(nodes, tensors, {"x": (1, 20, 9, 9)}, {"y": None}, kind=kind))
    # float16 keeps 11 bits of each factor
    written = check_full_rank(path, {"x": image(1, 20, 9, 9, dtype=np.float16)}, 2e-3)
    assert {t.data_type for t in written.proto.graph.initializer} == {kind}


def test_double_precision_stays(tmp_path):
    """ONNX Runtime's CPU build has no convolution of this type; ONNX's own evaluator computes."""
    tensors = {"w": weight(24, 20, 3, 3, dtype=np.float64), "b": weight(24, 1, dtype=np.float64).ravel()}
    nodes, kind = [conv("c", "x", "y", "w", "b")], TensorProto.DOUBLE
    path = write(tmp_path / "net.onnx", model(nodes, tensors, {"x": (1, 20, 9, 9)}, {"y": None}, kind=kind))
    (written, _) = full(path).save(tmp_path / "out")
    onnx.checker.check_model(str(written), full_check=True)
    assert {t.data_type for t in onnx.load(written).graph.initializer} == {kind}
    x = {"x": image(1, 20, 9, 9, dtype=np.float64)}
    wanted, got = (ReferenceEvaluator(str(p)).run(None, x) for p in (path, written))
    assert_close(got, wanted, 1e-12)


def test_bfloat16_stays(tmp_path):
    """ONNX Runtime's CPU build has no convolution of this type; the weights are compared."""
    values = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    tensors = {"w": weight(24, 20, 3, 3).astype(values)}
    nodes, kind = [conv("c", "x", "y", "w")], TensorProto.BFLOAT16
    made = model(nodes, tensors, {"x": (1, 20, 9, 9)}, {"y": None}, kind=kind, opset=22)
    path = write(tmp_path / "net.onnx", made)
    result = decompose(OnnxModel.load(path), ranks={"*": 16})
    (written, _) = result.save(tmp_path / "out")
    onnx.checker.check_model(str(written), full_check=True)
    stored = onnx.load(written).graph.initializer
    assert [t.data_type for t in stored] == [TensorProto.BFLOAT16] * 2
    for array, conv_ in zip(map(numpy_helper.to_array, stored), result.factors["c"].convs, strict=True):
        np.testing.assert_allclose(array.astype(np.float32), conv_.weight, rtol=2**-8)


def shared(**second) -> onnx.ModelProto:
    first = {"pads": [1, 1, 1, 1]}
    nodes = [
        conv("a", "x", "p", "w", "b", **first),
        helper.make_node("Relu", ["p"], ["q"]),
        conv("b", "q", "r", "w", **{**first, **second}),
        conv("c", "r", "y", "w", "b2", **first),
    ]
    tensors = {"w": weight(8, 8, 3, 3), "b": weight(8, 1).ravel(), "b2": weight(8, 1, seed=5).ravel()}
    return model(nodes, tensors, {"x": (1, 8, 9, 9)}, {"y": None})


def test_nodes_that_share_a_weight_are_replaced_alike(tmp_path):
    path = write(tmp_path / "net.onnx", shared())
    (layer,) = OnnxModel.load(path).convolutions()
    assert layer.sharers == ("b", "c")
    assert layer.input_sizes == ((9, 9),) * 3
    written = check_full_rank(path, {"x": image(1, 8, 9, 9)})
    assert names(written.proto) == ["a_0", "a_1", "", "b_0", "b_1", "c_0", "c_1"]
    assert [t.name for t in written.proto.graph.initializer] == ["w_0", "w_1", "b", "b2"]
    assert [layer.sharers for layer in written.convolutions()] == [("b_0", "c_0"), ("b_1", "c_1")]


def test_a_corrected_bias_reaches_every_sharer(tmp_path):
    """What a fit to data adds to the owner's bias is added to each one's own; the owner's alone is not."""
    path = write(tmp_path / "net.onnx", shared())
    loaded = OnnxModel.load(path)
    (layer,) = loaded.convolutions()
    stack = SCHEMES["channel"].factorize(layer, "").factors((8,))
    shift = np.arange(8, dtype=np.float32)
    last = twofold.conv.FactorConv(stack.convs[1].geometry, stack.convs[1].weight, layer.bias + shift)
    new = loaded.replace({"a": twofold.Factors("channel", (8,), (stack.convs[0], last))})
    new.save(tmp_path / "new.onnx")
    changed = shared()
    biases = {t.name: t for t in changed.graph.initializer}
    for name in ("b", "b2"):
        biases[name].CopyFrom(tensor(name, numpy_helper.to_array(biases[name]) + shift))
    changed.graph.initializer.append(tensor("shift", shift))
    changed.graph.node[2].input.append("shift")
    x = {"x": image(1, 8, 9, 9)}
    assert_close(run(tmp_path / "new.onnx", **x), run(write(tmp_path / "wanted.onnx", changed), **x))


def branches() -> onnx.ModelProto:
    """If whose branches hold a convolution each: one of the outer graph's weight, one of its own."""
    shape = (1, 8, 7, 7)
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, shape)
    then = helper.make_graph([conv("c", "q", "z", "w", pads=[1] * 4)], "then", [], [out])
    other = helper.make_graph(
        [conv("c", "q", "z", "u", "v", pads=[1] * 4)],
        "else", [], [out], [tensor("u", weight(8, 8, 3, 3, seed=4)), tensor("v", weight(8, 1).ravel())],
    )  # fmt: skip
    nodes = [
        conv("first", "x", "q", "w", pads=[1] * 4),
        helper.make_node("If", ["yes"], ["y"], "if", then_branch=then, else_branch=other),
    ]
    made = model(nodes, {"w": weight(8, 8, 3, 3)}, {"x": shape}, {"y": shape})
    made.graph.input.append(helper.make_tensor_value_info("yes", TensorProto.BOOL, ()))
    return made


def test_subgraphs_are_decomposed_too(tmp_path):
    path = write(tmp_path / "net.onnx", branches())
    layers = OnnxModel.load(path).convolutions()
    assert [(layer.name, layer.sharers, layer.input_sizes) for layer in layers] == [
        ("first", ("z#2",), ((7, 7),) * 2), ("z", (), ((7, 7),))
    ]  # fmt: skip
    for yes in (True, False):
        x = {"x": image(1, 8, 7, 7), "yes": np.array(yes)}
        check_full_rank(path, x)
        for file in (tmp_path / "out").iterdir():
            file.unlink()


def test_nodes_without_a_name_get_that_of_their_output(tmp_path):
    made = two()
    made.graph.node[0].name = made.graph.node[2].name = ""
    written = check_full_rank(write(tmp_path / "net.onnx", made), {"x": image(1, 16, 12, 12)})
    assert names(written.proto) == ["a_0", "a_1", "relu", "y_0", "y_1"]


def test_new_names_are_free(tmp_path):
    made = two()
    made.graph.node[1].name = "one_0"
    made.graph.node[2].input[1] = made.graph.initializer[2].name = "one.w_1"
    made.graph.node[1].output[0] = made.graph.node[2].input[0] = "one_1_output"
    written = check_full_rank(write(tmp_path / "net.onnx", made), {"x": image(1, 16, 12, 12)}).proto
    assert names(written) == ["one_0_2", "one_1", "one_0", "two_0", "two_1"]


def test_old_models_list_their_weights_as_inputs(tmp_path):
    made = two(ir=3, opset=8)
    for stored in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(stored.name, stored.data_type, stored.dims))
    written = check_full_rank(write(tmp_path / "net.onnx", made), {"x": image(1, 16, 12, 12)}).proto
    assert {v.name for v in written.graph.input} == {"x", *(t.name for t in written.graph.initializer)}


def refused_models():
    w, x, y = weight(8, 8, 3, 3), {"x": (1, 8, 9, 9)}, {"y": None}
    c = conv("c", "x", "y", "w")
    scale = np.array(0.1, np.float32)
    as_input = model([c], {"w": w}, {**x, "w": w.shape}, y)
    yield "an input of the graph, which a caller may change", as_input
    yield "an input of the graph", model([c], {}, {**x, "w": w.shape}, y)
    yield "is quantized", model(
        [
            helper.make_node("QuantizeLinear", ["x", "scale"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "scale"], ["xd"]),
            helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]), conv("c", "xd", "y", "w"),
        ],
        {"q": np.ones((8, 8, 3, 3), np.int8), "scale": scale}, x, y,
    )  # fmt: skip
    yield (
        "is computed .*Mul.*from 'v', an input",
        model(
            [helper.make_node("Mul", ["v", "scale"], ["w"]), c],
            {"v": w, "scale": scale},
            {**x, "v": w.shape},
            y,
        ),
    )
    yield "bias is 'b', an input", model([conv("c", "x", "y", "w", "b")], {"w": w}, {**x, "b": (8,)}, y)
    yield (
        "also used by 'sum' .ReduceSum",
        model([c, helper.make_node("ReduceSum", ["w"], ["s"], "sum")], {"w": w}, x, {**y, "s": None}),
    )
    yield "is an output of the graph", model([c], {"w": w}, x, {**y, "w": w.shape})
    yield "shares its weight with 'b', which has another", shared(strides=[2, 2])
    yield (
        "depend on the input's size",
        model(
            [conv("c", "x", "y", "w", auto_pad="SAME_UPPER", strides=[2, 2])],
            {"w": w},
            {"x": (1, 8, "h", "w")},
            y,
        ),
    )


@pytest.mark.parametrize(
    ("reason", "made"), [*refused_models()], ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_cannot_be_replaced_is_said(tmp_path, reason, made):
    path = write(tmp_path / "net.onnx", made)
    (skipped,) = OnnxModel.load(path).convolutions()
    assert isinstance(skipped, Skipped)
    assert re.search(reason, skipped.reason)
    result = full(path)
    assert not result.plan.choices
    assert result.save(tmp_path / "out")[0].read_bytes() == path.read_bytes()


def test_quantized_operators_are_listed(tmp_path):
    scalar = {name: np.array(0.1, np.float32) for name in ("s1", "s2", "s3")}
    zeros = {name: np.array(0, np.uint8) for name in ("z1", "z2", "z3")}
    node = helper.make_node(
        "QLinearConv", ["x", "s1", "z1", "w", "s2", "z2", "s3", "z3"], ["y"], "q", pads=[1, 1, 1, 1]
    )
    made = model(
        [node], {**scalar, **zeros, "w": np.ones((8, 4, 3, 3), np.uint8)},
        {"x": (1, 4, 9, 9)}, {"y": None}, kind=TensorProto.UINT8,
    )  # fmt: skip
    (skipped,) = OnnxModel.load(write(tmp_path / "net.onnx", made)).convolutions()
    assert "quantized" in skipped.reason
    assert skipped.macs == 8 * 4 * 9 * 81


def test_convolutions_in_functions_are_listed(tmp_path):
    body = [conv("inner", "x", "y", "w")]
    function = helper.make_function("local", "Block", ["x", "w"], ["y"], body, [helper.make_opsetid("", 18)])
    node = helper.make_node("Block", ["x", "w"], ["y"], "block", domain="local")
    made = model([node], {"w": weight(8, 8, 3, 3)}, {"x": (1, 8, 9, 9)}, {"y": None}, functions=[function])
    made.opset_import.add(domain="local", version=1)
    (skipped,) = OnnxModel.load(write(tmp_path / "net.onnx", made)).convolutions()
    assert skipped.name == "Block/inner"
    assert "inline it first" in skipped.reason


def dynamic() -> onnx.ModelProto:
    made = two()
    for value in (*made.graph.input, *made.graph.output):
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    return made


def test_dynamic_sizes_come_from_the_caller_and_stay_dynamic(tmp_path):
    path = write(tmp_path / "net.onnx", dynamic())
    loaded = OnnxModel.load(path)
    assert [layer.input_sizes for layer in loaded.convolutions()] == [(), ()]
    assert "give the shapes of the inputs (x), as in inputs={'x': (N, 16, N, N,)}" in loaded.notes[0]
    given = twofold.load(path, inputs={"x": (2, 16, 20, 30)})
    assert [layer.input_sizes for layer in given.convolutions()] == [((20, 30),)] * 2
    assert given.notes == ()
    (written, _) = decompose(given, ranks={"*": "full"}).save(tmp_path / "out")
    for shape in ((1, 16, 12, 12), (3, 16, 17, 19)):
        x = {"x": image(*shape)}
        assert_close(run(written, **x), run(path, **x))
    with pytest.raises(ModelError, match="no input 'data'; it has x"):
        twofold.load(path, inputs={"data": (1, 16, 20, 30)}).convolutions()
    with pytest.raises(ModelError, match="'x' has 4 axes, not 2"):
        twofold.load(path, inputs={"x": (1, 16)}).convolutions()


def test_same_pads_of_a_strided_layer_fit_every_size(tmp_path):
    nodes = [conv("c", "x", "y", "w", auto_pad="SAME_LOWER", strides=[2, 3])]
    path = write(
        tmp_path / "net.onnx", model(nodes, {"w": weight(8, 6, 5, 4)}, {"x": (1, 6, "h", "w")}, {"y": None})
    )
    given = twofold.load(path, inputs={"x": (1, 6, 20, 30)})
    (written, _) = decompose(given, ranks={"*": "full"}).save(tmp_path / "out")
    for size in itertools.product((7, 8, 9), (10, 11, 12)):
        x = {"x": image(1, 6, *size)}
        assert_close(run(written, **x), run(path, **x))


def test_sizes_that_the_model_computes_are_measured(tmp_path):
    """Shape inference stops at Cast; a run does not."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "two"], ["g"]),
        helper.make_node("Cast", ["g"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["big"]),
        conv("c", "big", "y", "w"),
    ]
    tensors = {"w": weight(8, 6, 3, 3), "two": np.array([1, 1, 2, 2], np.float32)}
    path = write(tmp_path / "net.onnx", model(nodes, tensors, {"x": (1, 6, 9, 11)}, {"y": None}))
    (layer,) = OnnxModel.load(path).convolutions()
    assert layer.input_sizes == ((18, 22),)


def test_plans_are_applied_to_the_same_bytes(tmp_path):
    path = write(tmp_path / "net.onnx", two())
    first = decompose(twofold.load(path), macs=0.5).save(tmp_path / "first")
    again = apply_plan(twofold.Plan.load(first[1]), twofold.load(path)).save(tmp_path / "second")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in first]


def test_predicted_errors_are_those_of_what_was_written(tmp_path):
    path = write(tmp_path / "net.onnx", two())
    result = decompose(OnnxModel.load(path), macs=0.5)
    (written, _) = result.save(tmp_path / "out")
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(written).graph.initializer}
    assert result.plan.choices
    for choice in result.plan.choices:
        first, second = (stored[f"{choice.layer}.w_{i}"].astype(np.float64) for i in (0, 1))
        # Along each axis one of the two has a single tap, so the products of the taps are the taps.
        product = np.einsum("orab,ricd->oiacbd", second, first)
        product = product.reshape(64, first.shape[1], *np.maximum(first.shape[2:], second.shape[2:]))
        original = numpy_helper.to_array(
            next(t for t in onnx.load(path).graph.initializer if t.name == f"{choice.layer}.w")
        )
        assert np.linalg.norm(original - product) / np.linalg.norm(original) == pytest.approx(
            choice.relative_error, rel=1e-5
        )


def test_a_wrong_result_is_never_saved(tmp_path, monkeypatch):
    result = full(write(tmp_path / "net.onnx", two()))
    broken = result.model.proto
    broken.graph.node[0].input[0] = "nothing"
    with pytest.raises(OutputError, match="does not pass ONNX's checker"):
        result.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


FILES = {
    "empty": (b"", "the file is empty"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        "Git LFS pointer.*git lfs pull",
    ),
    "html": (b"<!DOCTYPE html><html></html>", "a web page, not an ONNX model"),
    "prototxt": (b'name: "net"\nlayer { name: "c" }\n', "prototxt"),
    "zip": (b"PK\x03\x04" + bytes(40), "a zip archive.*give an ONNX model"),
    "ort": (b"\x00\x00\x00\x00ORTM" + bytes(40), "ONNX Runtime's own format"),
    "noise": (bytes(range(256)), "not an ONNX model"),
    "caffemodel": (b"\x0a\x03net\xa2\x06\x02\x0a\x00", "not an ONNX model"),
}


@pytest.mark.parametrize("kind", FILES)
def test_other_files_are_refused_in_one_line(tmp_path, kind):
    content, pattern = FILES[kind]
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(FormatError, match=pattern) as caught:
        twofold.load(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "net.onnx") in str(caught.value)


def test_missing_and_truncated_files(tmp_path):
    with pytest.raises(FormatError, match="cannot read the model: No such file"):
        twofold.load(tmp_path / "net.onnx")
    content = write(tmp_path / "net.onnx", two()).read_bytes()
    for end in (1, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "net.onnx").write_bytes(content[:end])
        with pytest.raises(FormatError, match="not an ONNX model"):
            twofold.load(tmp_path / "net.onnx")


def test_data_that_are_too_short(tmp_path):
    made = two()
    made.graph.initializer[0].raw_data = made.graph.initializer[0].raw_data[:-4]
    path = write(tmp_path / "net.onnx", made)
    with pytest.raises(FormatError, match=r"net.onnx: tensor 'one.w' cannot be read"):
        OnnxModel.load(path).convolutions()


def test_factors_that_half_precision_cannot_hold(tmp_path):
    tensors = {"w": np.full((4, 4, 3, 3), 6e4, np.float16)}
    nodes, kind = [conv("c", "x", "y", "w")], TensorProto.FLOAT16
    path = write(tmp_path / "net.onnx", model(nodes, tensors, {"x": (1, 4, 9, 9)}, {"y": None}, kind=kind))
    loaded = OnnxModel.load(path)
    (layer,) = loaded.convolutions()
    stack = SCHEMES["spatial"].factorize(layer, "hw").factors((1,))
    last = twofold.conv.FactorConv(stack.convs[1].geometry, stack.convs[1].weight * 1e3)
    with pytest.raises(ModelError, match=r"w_1: .* is too large for FLOAT16"):
        loaded.replace({"c": twofold.Factors("spatial", (1,), (stack.convs[0], last))})


def test_a_model_too_large_for_one_file_is_refused_before_it_is_written(tmp_path, monkeypatch):
    result = full(write(tmp_path / "net.onnx", two()))
    monkeypatch.setattr("twofold.formats.onnx.model._LARGEST_MESSAGE", 1000)
    with pytest.raises(OutputError, match="does not fit into one file; store the original"):
        result.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
