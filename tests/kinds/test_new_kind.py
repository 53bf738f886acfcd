"""A layer type that is none of twofold's: a convolution in the mathematician's sense, its kernel mirrored.

All that is known of it stands here, in one class for what it computes and one for how PyTorch says it.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import twofold  # noqa: E402
from twofold import layer_types  # noqa: E402
from twofold.calibration.gather import CalibrationOptions  # noqa: E402
from twofold.calibration.statistics import PatchSampler, StatisticsOptions  # noqa: E402
from twofold.conv import ConvGeometry  # noqa: E402
from twofold.formats.torch import layer_types as modules  # noqa: E402
from twofold.layer_types import LAYER_TYPES, convolution  # noqa: E402
from twofold.lowrank import SCHEMES  # noqa: E402
from twofold.text import shape_text  # noqa: E402


class Mirrored(convolution.Convolution):
    name, words = "mirrored", "a mirrored convolution"

    def patches(self, image, geometry):
        padded, steps, places = super().patches(image, geometry)
        return padded, steps, places[::-1]

    def window(self, geometry):
        return f"{super().window(geometry)} mirrored"


class MirroredConv2d(nn.Conv2d):
    def forward(self, x):
        weight, groups = self.weight.flip(2, 3), self.groups
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, groups=groups)


class Modules(modules.Convolution):
    layer_type, modules = "mirrored", (MirroredConv2d,)

    def make(self, geometry, settings, **options):
        pad = tuple(before for before, _ in geometry.pad)
        g = geometry
        return MirroredConv2d(g.c_in, g.c_out, g.kernel, g.stride, pad, groups=g.groups, **options)

    def run(self, geometry, x, weight, bias):
        return super().run(geometry, x, weight.flip(2, 3), bias)


@pytest.fixture
def known(monkeypatch):
    """Both registered, and forgotten after the test."""
    monkeypatch.setattr(LAYER_TYPES, "_entries", dict(LAYER_TYPES))
    registry = modules.base.registry
    monkeypatch.setattr(registry, "_entries", dict(registry))
    layer_types.register(Mirrored())
    modules.register(Modules())


def shape(**more) -> ConvGeometry:
    return ConvGeometry(12, 8, (3, 2), (2, 1), ((1, 1), (1, 1)), (1, 1), layer_type="mirrored", **more)


def mixed(count: int, seed: int) -> torch.Tensor:
    """Images whose channels are mixtures of a few."""
    rng = np.random.default_rng(seed)
    few = np.repeat(np.repeat(rng.standard_normal((count, 4, 6, 6)), 2, 2), 2, 3)
    images = np.einsum("nkhw,kc->nchw", few, np.random.default_rng(1).standard_normal((4, 16)))
    return torch.from_numpy((images + 0.1 * rng.standard_normal(images.shape)).astype(np.float32))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = MirroredConv2d(16, 32, 3, padding=1)
        self.two = MirroredConv2d(32, 24, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x).relu())


@pytest.fixture
def net(known) -> Net:
    torch.manual_seed(0)
    return Net().eval()


def error(module: nn.Module, net: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        wanted = net(x)
        return float((module(x) - wanted).norm() / (wanted - wanted.mean()).norm())


def test_patches_are_what_the_layer_computes_with(known):
    g, rng = shape(), np.random.default_rng(0)
    x, weight = rng.standard_normal((3, 8, 7, 5)), rng.standard_normal(g.weight_shape)
    chunks = PatchSampler(g, StatisticsOptions()).chunks(x)
    patches = np.concatenate([chunk.copy() for chunk in chunks])  # (rows, taps, C_in)
    found = np.einsum("rtc,oct->ro", patches, weight.reshape(12, 8, 6))
    wanted = functional.conv2d(
        torch.from_numpy(x), torch.from_numpy(weight[..., ::-1, ::-1].copy()), None, g.stride, 1
    )
    np.testing.assert_allclose(found, wanted.numpy().transpose(0, 2, 3, 1).reshape(-1, 12), atol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_full_rank_changes_nothing(net, scheme):
    x = mixed(2, 0).double()
    result = twofold.decompose(
        net.double(), ranks={"*": "full"}, schemes=scheme, example_inputs=x, no_data=True
    )
    assert [choice.layer for choice in result.plan.choices] == ["one", "two"]
    assert error(result.model.module, net, x) < 1e-12


def test_a_fit_to_data_beats_one_to_weights_and_keeps_its_promise(net):
    data, holdout = mixed(48, 2), mixed(16, 3)
    one = {"only": "one", "ranks": {"one": 12}, "schemes": "channel"}
    bare = CalibrationOptions(gradients=False)
    fitted = twofold.decompose(net, data=data, calibration=bare, **one)
    blind = twofold.decompose(net, no_data=True, example_inputs=data, **one)
    lost = [error(result.model.module.one, net.one, holdout) for result in (fitted, blind)]
    assert lost[0] < 0.7 * lost[1]
    # What is predicted is the layer's error on what it has seen, channel by channel around its mean.
    with torch.no_grad():
        wanted, found = net.one(data), fitted.model.module.one(data)
        variance = (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().sum()
        measured = float(((found - wanted).square().sum() / variance).sqrt())
    assert fitted.plan.choices[0].relative_error == pytest.approx(measured, rel=0.01)


def test_a_plan_is_saved_and_applied(net, tmp_path):
    result = twofold.decompose(net, macs=0.7, example_inputs=mixed(1, 0), no_data=True)
    assert {choice.geometry.layer_type for choice in result.plan.choices} == {"mirrored"}
    *_, path = result.save(tmp_path)
    again = twofold.apply_plan(twofold.Plan.load(path), twofold.backends.as_model(net, mixed(1, 0)))
    assert error(again.model.module, result.model.module, mixed(2, 4)) < 1e-5


def test_it_is_named_by_its_own_name(known):
    assert shape_text(shape()) == "8->12 3x2 mirrored, stride 2x1"
    assert LAYER_TYPES.find("mirrored").words == "a mirrored convolution"
    with pytest.raises(twofold.TwofoldError, match="'mirrored' is registered already"):
        layer_types.register(Mirrored())
    with pytest.raises(twofold.TwofoldError, match=r"MirroredConv2d.* is registered already"):
        modules.register(Modules())


def test_without_it_nothing_is_known():
    names = " ".join(LAYER_TYPES)
    assert "mirrored" not in names
    with pytest.raises(ValueError, match=re.escape(", ".join(LAYER_TYPES))):
        shape()
    with pytest.raises(twofold.TwofoldError, match="there is no layer type 'mirrored'; known:"):
        LAYER_TYPES.find("mirrored")
    with pytest.raises(twofold.TwofoldError, match="no module is registered for layers of the type"):
        modules.plain("mirrored")
    layers = twofold.backends.as_model(Net()).convolutions()
    assert {layer.reason for layer in layers} == {"a subclass with a forward of its own (MirroredConv2d)"}


def test_every_layer_type_undoes_how_it_stores_its_weight():
    rng = np.random.default_rng(0)
    for name, groups in itertools.product(LAYER_TYPES, (1, 2)):
        g = ConvGeometry(4, 6, (3, 2), (1, 1), ((0, 0),) * 2, (1, 1), groups, layer_type="convolution")
        if not LAYER_TYPES.find(name).spatial:
            g = ConvGeometry.linear(4, 6)
        g = ConvGeometry(g.c_out, g.c_in, g.kernel, g.stride, g.pad, g.dilation, g.groups, name)
        weight = rng.standard_normal(g.weight_shape)
        stored = g.semantics.stored(weight, g)
        assert stored.shape == g.semantics.stored_shape(g)
        np.testing.assert_array_equal(g.semantics.canonical(stored, g), weight)
