"""MACs of ONNX files against torch's own count for the modules that they were exported from."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from onnx import TensorProto, helper  # noqa: E402
from tests.formats.onnx.small import conv, model, weight, write  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import twofold  # noqa: E402
from twofold.conv import Skipped  # noqa: E402
from twofold.onnx_torch import OnnxNet  # noqa: E402
from twofold.planning.workload import Workload  # noqa: E402


def _counted(call) -> int:
    """Multiply-accumulates of convolutions and linear layers, per sample; a product of results is neither."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    by_operator = counter.get_flop_counts()["Global"]
    layers = ("convolution", "addmm", "mm")
    return sum(flops for operator, flops in by_operator.items() if str(operator).split(".")[1] in layers) // 2


class Attention(nn.Module):
    """Projections by one matrix each, over 49 positions; the products of results are no layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 8, 8)
        self.qkv, self.out, self.head = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 64)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        x = self.out(torch.softmax(q @ k.transpose(1, 2) / 6, dim=-1) @ v)
        return self.head(x.mean(dim=1))


class Regions(nn.Module):
    """A head that runs once for each of 9 regions of every image."""

    def __init__(self):
        super().__init__()
        self.stem, self.head, self.score = nn.Conv2d(3, 24, 3), nn.Conv2d(24, 48, 3), nn.Linear(48, 32)

    def forward(self, x):
        x = self.stem(x)[:, :, :24, :24]
        n, c = x.shape[:2]
        x = x.reshape(n, c, 3, 8, 3, 8).permute(0, 2, 4, 1, 3, 5).reshape(n * 9, c, 8, 8)
        return self.score(self.head(x).mean(dim=(2, 3)))


class Generated(nn.Module):
    """A convolution whose weight is computed, and a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.first, self.weight, self.last = nn.Conv2d(3, 32, 3), nn.Linear(32, 32 * 9), nn.Conv2d(32, 64, 3)
        self.never = nn.Conv2d(64, 64, 3)

    def forward(self, x):
        x = self.first(x)
        made = self.weight(x.mean(dim=(2, 3))[0]).reshape(1, 32, 3, 3)
        return self.last(nn.functional.conv2d(x, made) * x[:, :, 1:-1, 1:-1])


def _chain(*layers):
    return nn.Sequential(*layers)


NETS = {
    "plain": (lambda: _chain(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3)), (3, 33, 33)),
    "batch norm": (lambda: _chain(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3)), (3, 9, 9)),
    "grouped": (lambda: _chain(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3, groups=2)), (3, 20, 20)),
    "depthwise": (
        lambda: _chain(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 64, 3)), (3, 9, 9)
    ),
    "dilated": (lambda: _chain(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, dilation=2, padding=2)), (3, 9, 9)),
    "transposed": (
        lambda: _chain(nn.Conv2d(3, 32, 3, 2), nn.ConvTranspose2d(32, 32, 4, 2, 1)), (3, 21, 21)
    ),
    "1-D": (lambda: _chain(nn.Conv1d(4, 32, 5), nn.ReLU(), nn.Conv1d(32, 32, 7)), (4, 60)),
    "3-D": (lambda: _chain(nn.Conv3d(2, 24, 3), nn.ReLU(), nn.Conv3d(24, 24, 3)), (2, 8, 9, 10)),
    "Gemm": (
        lambda: _chain(nn.Conv2d(3, 32, 3), nn.Flatten(), nn.Linear(1152, 64), nn.Linear(64, 64)), (3, 8, 8)
    ),
    "vectors": (lambda: _chain(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48)), (17, 48)),
    "vectors of vectors": (lambda: _chain(nn.Linear(48, 96, bias=False), nn.Linear(96, 48)), (3, 5, 48)),
    "attention": (Attention, (3, 56, 56)),
    "regions": (Regions, (3, 26, 26)),
    "generated weight": (Generated, (3, 16, 16)),
    "asymmetric kernels": (
        lambda: _chain(nn.Conv2d(3, 48, (1, 7), padding=(0, 3)), nn.Conv2d(48, 48, (7, 1))), (3, 20, 20)
    ),
    "SAME": (lambda: _chain(nn.Conv2d(3, 32, 4, padding="same"), nn.Conv2d(32, 32, 3)), (3, 20, 20)),
}  # fmt: skip


#: One image at a time, too, and exported by the newer and slower exporter.
MORE = ("transposed", "attention", "regions", "generated weight")


@pytest.mark.parametrize(
    ("name", "dynamo", "batch"),
    [
        *((name, False, 3) for name in NETS),
        *((name, False, 1) for name in MORE),
        *(pytest.param(name, True, 1, marks=pytest.mark.slow) for name in MORE),
    ],
)
def test_macs_are_those_of_the_module(tmp_path, name, dynamo, batch):
    make, shape = NETS[name]
    torch.manual_seed(0)
    net, x, path = make().eval(), torch.rand(batch, *shape), tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), str(path), dynamo=dynamo, **({"verbose": False} if dynamo else {}))
    true = _counted(lambda: net(x)) / batch
    loaded = twofold.load(path)
    layers = loaded.convolutions()
    assert all(layer.macs is not None for layer in layers)
    assert sum(map(Workload.of(layers).layer_macs, layers)) == pytest.approx(true, rel=1e-3)
    smaller = twofold.decompose(
        loaded, macs=0.6, multiple=1, no_data=True, refine=0, schemes=("spatial", "channel")
    )
    after = OnnxNet(smaller.model.proto, [one.name for one in smaller.model.proto.graph.output], loaded.files)
    (fed,) = (value.name for value in loaded.proto.graph.input)
    assert _counted(lambda: after({fed: x})) / batch <= 0.603 * true


def _cost(path):
    (skipped,) = (layer for layer in twofold.load(path).convolutions() if isinstance(layer, Skipped))
    return skipped.macs, skipped.params, skipped.reason


def test_products_with_a_weight_that_a_caller_gives(tmp_path):
    make = helper.make_node
    shapes = {"x": (2, 7, 16), "w": (16, 24)}
    made = model([make("MatMul", ["x", "w"], ["y"])], {}, shapes, {"y": None})
    assert _cost(write(tmp_path / "given.onnx", made)) == (
        7 * 16 * 24, 16 * 24, "its weight is 'w', an input of the graph"
    )  # fmt: skip
    turned = [make("Transpose", ["w"], ["t"], perm=[1, 0]), make("MatMul", ["x", "t"], ["y"])]
    made = model(turned, {"w": weight(24, 16)}, {"x": (2, 7, 16), "w": (24, 16)}, {"y": None})
    macs, _, reason = _cost(write(tmp_path / "default.onnx", made))
    assert macs == 7 * 16 * 24
    assert "from 'w', an input of the graph, which a caller may change" in reason
    left = model([make("MatMul", ["w", "x"], ["y"])], {"w": weight(9, 7)}, {"x": (2, 7, 16)}, {"y": None})
    macs, _, reason = _cost(write(tmp_path / "left.onnx", left))
    assert (macs, "first factor" in reason) == (9 * 7 * 16, True)
    many = model([make("MatMul", ["x", "w"], ["y"])], {"w": weight(2, 16, 8)}, {"x": (2, 7, 16)}, {"y": None})
    assert _cost(write(tmp_path / "many.onnx", many))[:2] == (7 * 16 * 8, 2 * 16 * 8)


def test_layers_in_functions_cost_what_they_compute(tmp_path):
    """A function that is called twice."""
    body = [conv("inner", "x", "y", "w", pads=[1] * 4)]
    function = helper.make_function("local", "Block", ["x", "w"], ["y"], body, [helper.make_opsetid("", 18)])
    nodes = [
        helper.make_node("Block", ["x", "w"], ["a"], "first", domain="local"),
        helper.make_node("Block", ["a", "w"], ["b"], "second", domain="local"),
        conv("last", "b", "y", "v"),
    ]
    made = model(
        nodes, {"w": weight(8, 8, 3, 3), "v": weight(8, 8, 3, 3)}, {"x": ("n", 8, 9, 9)}, {"y": None},
        functions=[function],
    )  # fmt: skip
    made.opset_import.add(domain="local", version=1)
    layers = twofold.load(write(tmp_path / "net.onnx", made)).convolutions()
    assert [(layer.name, layer.macs) for layer in layers] == [
        ("last", 8 * 8 * 9 * 49), ("Block/inner", 8 * 8 * 9 * 81), ("Block/inner#2", 8 * 8 * 9 * 81)
    ]  # fmt: skip


def test_a_loop_of_constant_length_counts_each_turn(tmp_path):
    shape = (1, 8, 7, 7)
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [conv("c", "h", "g", "w", pads=[1] * 4), helper.make_node("Identity", ["on"], ["still"])], "body",
        [value("i", TensorProto.INT64, ()), value("on", TensorProto.BOOL, ()), value("h", 1, shape)],
        [value("still", TensorProto.BOOL, ()), value("g", 1, shape)],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["count", "", "x"], ["y"], "loop", body=body)
    made = model([loop], {"w": weight(8, 8, 3, 3), "count": np.array(5)}, {"x": shape}, {"y": shape})
    (layer,) = twofold.load(write(tmp_path / "net.onnx", made)).convolutions()
    assert layer.macs == 5 * 8 * 8 * 9 * 49


ONE, WIDE = 8 * 8 * 9 * 49, 8 * 8 * 9 * 25
SHAPE = (1, 8, 7, 7)


def _inner(kind, graph, given=(), constants=None):
    """The layers of a net that is one node with graphs, and what else its inputs need."""
    node = helper.make_node(kind, list(given), ["y"], "holds", **graph)
    tensors = {"w": weight(8, 8, 3, 3), "narrow": weight(4, 8, 1, 1), **(constants or {})}
    made = model([node], tensors, {"x": SHAPE}, {"y": None})
    for name in given:
        if name not in {"", "x", *tensors}:
            type_ = TensorProto.BOOL if name == "flag" else TensorProto.INT64
            made.graph.input.append(helper.make_tensor_value_info(name, type_, ()))
    return made


def _branch(weights):
    nodes = [conv(f"{one}{i}", "x", f"y{i}", one) for i, one in enumerate(weights)]
    nodes.append(helper.make_node("Relu", [f"y{len(weights) - 1}" if weights else "x"], ["z"]))
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info("z", 1, None)])


@pytest.mark.parametrize(
    ("branches", "flag", "macs", "stay"),
    [
        ((["w"], []), None, {"w0": WIDE}, set()),
        ((["w"], ["narrow"]), None, {"w0": WIDE, "narrow0": 4 * 8 * 49}, set()),
        ((["w"], ["narrow"]), True, {"w0": WIDE, "narrow0": 0}, {"narrow0"}),
        ((["w"], ["narrow"]), False, {"w0": 0, "narrow0": 4 * 8 * 49}, {"w0"}),
    ],
    ids=["one", "both", "constant true", "constant false"],
)
def test_branches_that_may_run_count(tmp_path, branches, flag, macs, stay):
    """Both, which is said, unless the condition is constant: then one runs always, the other never."""
    graphs = {"then_branch": _branch(branches[0]), "else_branch": _branch(branches[1])}
    constants = {} if flag is None else {"flag": np.array(flag)}
    made = _inner("If", graphs, ["flag"], constants)
    loaded = twofold.load(write(tmp_path / "net.onnx", made))
    layers = loaded.convolutions()
    costs = {
        one.name: one.macs if isinstance(one, Skipped) else sum(one.costs((one.geometry,))) for one in layers
    }
    assert (costs, {one.name for one in layers if isinstance(one, Skipped)}) == (macs, stay)
    assert all("never runs it" in one.reason for one in layers if isinstance(one, Skipped))
    both = flag is None and len(layers) > 1
    assert any("both branches of the If 'holds' are counted" in note for note in loaded.notes) == both


@pytest.mark.parametrize(
    ("count", "condition", "macs"),
    [("free", "given", None), (2**62, "computed", None), (0, "given", 0), (3, "given", 3 * ONE)],
)
def test_turns_of_a_loop(tmp_path, count, condition, macs):
    """The number of turns is an input of the net, ends when something is computed, or is constant."""
    value = helper.make_tensor_value_info
    nodes = [conv("c", "h", "g", "w", pads=[1] * 4)]
    if condition == "given":
        nodes.append(helper.make_node("Identity", ["on"], ["still"]))
    else:
        nodes += [
            helper.make_node("ReduceMax", ["g"], ["m"], keepdims=0),
            helper.make_node("Cast", ["m"], ["still"], to=TensorProto.BOOL),
        ]
    body = helper.make_graph(
        nodes, "body",
        [value("i", TensorProto.INT64, ()), value("on", TensorProto.BOOL, ()), value("h", 1, SHAPE)],
        [value("still", TensorProto.BOOL, ()), value("g", 1, SHAPE)],
    )  # fmt: skip
    constants = {} if count == "free" else {"count": np.array(count)}
    made = _inner("Loop", {"body": body}, ["count", "", "x"], constants)
    (layer,) = twofold.load(write(tmp_path / "net.onnx", made)).convolutions()
    assert layer.macs == macs
    if not macs:
        assert ("depends on values" if macs is None else "never runs it") in layer.reason
