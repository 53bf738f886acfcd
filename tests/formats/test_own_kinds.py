"""Kinds of layers that are registered from outside, one class for each format: read, calibrated, written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests import small as caffe  # noqa: E402
from tests.formats.onnx import small  # noqa: E402

import twofold  # noqa: E402
from twofold.caffe_torch import to_torch  # noqa: E402
from twofold.calibration.source import CalibrationSource  # noqa: E402
from twofold.conv import ConvGeometry, ConvLayer, Skipped  # noqa: E402
from twofold.formats.caffe import layer_types as types  # noqa: E402
from twofold.formats.onnx import layer_types as operators  # noqa: E402
from twofold.formats.torch import layer_types as modules  # noqa: E402
from twofold.recover import RecoverOptions  # noqa: E402

nn = torch.nn
MICROSOFT = "com.microsoft"


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """Whatever a test registers is forgotten after it."""
    for registry in (types.base.registry, operators.base.registry, modules.base.registry):
        monkeypatch.setattr(registry, "_entries", dict(registry))


def mixed(count: int, channels: int, *size: int, seed: int = 4) -> np.ndarray:
    """Inputs whose channels are mixtures of a few."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(3).normal(size=(channels // 8, channels))
    found = np.einsum("nk...,kc->nc...", rng.normal(size=(count, channels // 8, *size)), mixing)
    return (found + 0.1 * rng.normal(size=found.shape)).astype(np.float32)


def lost(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted - wanted.mean()))


# ---- ONNX: operators of ONNX Runtime


class FusedConv(operators.Convolution):
    """A Conv with an activation behind it, which stays with the last of a stack."""

    operators = ((MICROSOFT, "FusedConv"),)

    def rejection(self, node):
        return "it adds a value" if len(node.input) > 3 else ""

    def write(self, node, geometry, *, last):
        super().write(node, geometry, last=last)
        if last:
            node.domain, node.op_type = self.operators[0]
        else:
            kept = [one for one in node.attribute if not one.name.startswith("activation")]
            del node.attribute[:]
            node.attribute.extend(kept)


class FusedMatMul(operators.MatMul):
    """A MatMul whose second input may be transposed."""

    operators = ((MICROSOFT, "FusedMatMul"),)

    def turned(self, node):
        return not any(one.name == "transB" and one.i for one in node.attribute)


def fused(folder: Path, *rest: str) -> Path:
    """A net that ends in a FusedConv and a FusedMatMul."""
    nodes = [
        onnx.helper.make_node(
            "FusedConv", ["x", "w", "b", *rest], ["a"], "conv", MICROSOFT,
            domain=MICROSOFT, pads=[1, 1, 1, 1], activation="LeakyRelu", activation_params=[0.1],
        ),
        onnx.helper.make_node("GlobalAveragePool", ["a"], ["p"], "pool"),
        onnx.helper.make_node("Flatten", ["p"], ["f"], "flat"),
        onnx.helper.make_node("FusedMatMul", ["f", "v"], ["y"], "matmul", domain=MICROSOFT, transB=1),
    ]  # fmt: skip
    tensors = {
        "w": small.weight(48, 32, 3, 3), "b": small.weight(48, 1, seed=1).ravel(),
        "v": small.weight(40, 48, seed=2), **dict.fromkeys(rest, small.weight(1, 48, 8, 8)),
    }  # fmt: skip
    made = small.model(nodes, tensors, {"x": ("n", 32, 8, 8)}, {"y": ("n", 40)})
    made.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    return small.write(folder / "net.onnx", made)


def test_operators_of_a_runtime(tmp_path):
    operators.register(FusedConv())
    operators.register(FusedMatMul())
    path, x = fused(tmp_path), mixed(16, 32, 8, 8)
    model = twofold.load(path)
    conv, matmul = model.convolutions()
    assert conv.geometry == ConvGeometry.of(48, 32, (3, 3), pad=1)
    assert matmul.geometry == ConvGeometry.linear(40, 48)
    (wanted,) = small.run(path, x=x)
    full = twofold.decompose(model, ranks={"*": "full"}, schemes="channel", no_data=True)
    (again, _) = full.save(tmp_path / "full")
    small.assert_close(small.run(again, x=x), [wanted])
    nodes = onnx.load(again).graph.node
    assert [node.op_type for node in nodes if "conv" in node.name] == ["Conv", "FusedConv"]
    assert [node.domain for node in nodes if "matmul" in node.name] == [MICROSOFT] * 2
    assert [any("activation" in one.name for one in node.attribute) for node in nodes[:2]] == [False, True]


def test_operators_of_a_runtime_are_calibrated(tmp_path):
    operators.register(FusedConv())
    path, holdout = fused(tmp_path), mixed(16, 32, 8, 8, seed=5)
    model, one = twofold.load(path), {"only": "conv", "ranks": {"conv": 24}, "schemes": "channel"}
    (wanted,) = small.run(path, x=holdout)
    fitted = twofold.decompose(model, data={"x": mixed(32, 32, 8, 8)}, **one)
    blind = twofold.decompose(model, no_data=True, **one)
    found = [
        small.run(result.save(tmp_path / name)[0], x=holdout)[0]
        for name, result in (("fitted", fitted), ("blind", blind))
    ]
    assert lost(found[0], wanted) < 0.5 * lost(found[1], wanted)
    assert fitted.plan.choices[0].output_error is not None  # the stack was tried in the running net


def test_what_an_own_operator_refuses(tmp_path):
    operators.register(FusedConv())
    (layer, _) = twofold.load(fused(tmp_path, "more")).convolutions()
    assert isinstance(layer, Skipped)
    assert layer.reason == "it adds a value"


def test_without_registration_the_operators_stay(tmp_path):
    layers = twofold.load(fused(tmp_path)).convolutions()
    for layer, name in zip(layers, ("FusedConv", "FusedMatMul"), strict=True):
        assert isinstance(layer, Skipped)
        assert f"an operator of a runtime (com.microsoft.{name})" in layer.reason
    with pytest.raises(twofold.TwofoldError, match=r"'Conv'\) is registered already"):
        operators.register(operators.Convolution())


# ---- Caffe: the type of a fork


class ForkConvolution(types.Convolution):
    types = ("ForkConvolution",)


FORK = caffe.NET.replace('"Convolution"', '"ForkConvolution"', 2)


def caffe_net(folder: Path, text: str) -> twofold.formats.caffe.model.CaffeModel:
    folder.mkdir()
    return twofold.load(*caffe.write(folder, text, caffe.random_blobs(caffe.NET)))


def run(model: twofold.formats.caffe.model.CaffeModel, x: np.ndarray) -> np.ndarray:
    (found,) = to_torch(model)({"data": torch.from_numpy(x)}).values()
    return found.detach().numpy()


def test_the_type_of_a_fork(tmp_path):
    types.register(ForkConvolution())
    plain, own = caffe_net(tmp_path / "plain", caffe.NET), caffe_net(tmp_path / "own", FORK)
    x = mixed(4, 16, 12, 12)
    np.testing.assert_array_equal(run(own, x), run(plain, x))
    assert own.notes == plain.notes == ()
    results = [
        twofold.decompose(model, data={"data": x}, ranks={"*": 16}, schemes="spatial")
        for model in (plain, own)
    ]
    found = [run(result.model, x) for result in results]
    caffe.assert_close(found[1], found[0])
    paths = results[1].save(tmp_path / "out")
    # What was BVLC's in the net stays so, and so does the fork's.
    assert paths[0].read_text() == results[0].save(tmp_path / "other")[0].read_text().replace(
        '"Convolution"', '"ForkConvolution"', 4
    )
    np.testing.assert_allclose(
        run(twofold.load(*paths[:2]), x), found[1], rtol=0, atol=1e-6 * np.ptp(found[1])
    )


def test_the_type_of_a_fork_is_exported(tmp_path):
    types.register(ForkConvolution())
    model, x = caffe_net(tmp_path / "own", FORK), mixed(1, 16, 12, 12)
    twofold.export(model, tmp_path / "net.onnx")
    small.assert_close(small.run(tmp_path / "net.onnx", data=x), [run(model, x)])


def test_without_registration_the_type_is_none_that_is_decomposed(tmp_path):
    model = caffe_net(tmp_path / "own", FORK)
    assert [layer.name for layer in model.convolutions()] == ["out"]
    assert "layer type 'ForkConvolution' is unknown to BVLC Caffe" in str(model.notes)
    with pytest.raises(twofold.TwofoldError, match="layer type 'Convolution' is registered already"):
        types.register(types.Convolution())


# ---- PyTorch: a user's module


class Projection(nn.Module):
    """A fully connected layer without bias whose weight is (in, out)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_in, c_out, generator=torch.manual_seed(0)) / c_in**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


class Projections(modules.Linear):
    modules = (Projection,)

    def geometry(self, module):
        return ConvGeometry.linear(*module.weight.shape[::-1])

    def weight(self, values, geometry):
        return super().weight(values.T, geometry)


class Causal(nn.Conv1d):
    """Pads in front alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(x, (self.kernel_size[0] - 1, 0)))


class Causals(modules.Convolution):
    modules = (Causal,)

    def geometry(self, module):
        (k,) = module.kernel_size
        return ConvGeometry(module.out_channels, module.in_channels, (k,), (1,), ((k - 1, 0),), (1,))


def test_a_module(tmp_path):
    modules.register(Projections())
    net, x = nn.Sequential(Projection(32, 48), nn.ReLU(), Projection(48, 48)).eval(), mixed(64, 32)
    one = {"ranks": {"0": 8, "2": 12}, "schemes": "channel"}
    fitted = twofold.decompose(net, data=torch.from_numpy(x), **one)
    blind = twofold.decompose(net, no_data=True, example_inputs=torch.from_numpy(x), **one)
    holdout = torch.from_numpy(mixed(64, 32, seed=6))
    with torch.no_grad():
        wanted, *found = (
            module(holdout).numpy() for module in (net, fitted.model.module, blind.model.module)
        )
    assert lost(found[0], wanted) < 0.5 * lost(found[1], wanted)
    names = ["0.0.weight", "0.1.weight", "0.1.bias", "2.0.weight", "2.1.weight", "2.1.bias"]
    assert list(fitted.model.module.state_dict()) == names
    state, plan = fitted.save(tmp_path)
    again = twofold.Plan.load(plan).apply(net)
    again.load_state_dict(torch.load(state, weights_only=True))
    with torch.no_grad():
        np.testing.assert_array_equal(again(holdout).numpy(), found[0])


def test_a_module_whose_stack_is_trained():
    modules.register(Projections())
    net, x = nn.Sequential(Projection(32, 48), nn.ReLU(), Projection(48, 48)).eval(), mixed(256, 32)
    start = twofold.decompose(net, data=torch.from_numpy(x), ranks={"0": 3, "2": 6}, schemes="channel")
    options = RecoverOptions(steps=60, rate=1e-2, batch=16)
    trained = twofold.recover(net, start.model, CalibrationSource(data=torch.from_numpy(x)), options)
    assert trained.after < trained.before
    before, after = (one.module.state_dict() for one in (start.model, trained.model))
    assert len(after) == 6
    assert not any(torch.equal(value, before[name]) for name, value in after.items())


def test_modules_of_two_kinds_that_share_a_weight_stay():
    modules.register(Projections())
    net = nn.Sequential(Projection(32, 32), nn.Linear(32, 32, bias=False))
    net[1].weight = net[0].weight  # the same numbers, the other way round
    (layer,) = twofold.backends.as_model(net).convolutions()
    assert "shares its weight with '1', which has another shape" in layer.reason


def test_a_module_for_which_there_is_no_plain_one():
    modules.register(Causals())
    net, x = nn.Sequential(Causal(16, 24, 3)), torch.from_numpy(mixed(2, 16, 9))
    (layer,) = twofold.backends.as_model(net, x).convolutions()
    assert isinstance(layer, ConvLayer)
    assert layer.geometry.output_size((9,)) == net(x).shape[2:]
    with pytest.raises(twofold.TwofoldError, match=r"pads both sides alike, or as 'same', got \(\(2, 0\),\)"):
        twofold.decompose(net, ranks={"*": 4}, example_inputs=x, no_data=True, schemes="channel")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_a_quantized_module_is_listed_once():
    """Its packed parameters are a module, too, whose class has a similar name."""
    net = nn.Sequential(torch.ao.nn.quantized.Linear(4, 6), torch.ao.nn.quantized.ConvTranspose2d(4, 6, 3))
    found = {layer.name: layer.geometry for layer in twofold.backends.as_model(net).convolutions()}
    assert list(found) == ["0", "1"]
    assert found["0"] == ConvGeometry.linear(6, 4)
    assert found["1"].layer_type == "transposed"
