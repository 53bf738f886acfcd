"""Linear and transposed layers of modules."""

from __future__ import annotations

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import twofold  # noqa: E402
from twofold.calibration.gather import CalibrationOptions  # noqa: E402
from twofold.conv import ConvLayer, Skipped  # noqa: E402
from twofold.decomposition.apply import apply_plan  # noqa: E402
from twofold.decomposition.decompose import decompose  # noqa: E402
from twofold.formats.torch.model import TorchModel  # noqa: E402
from twofold.lowrank import SCHEMES  # noqa: E402

BARE = CalibrationOptions(gradients=False)
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def numbers(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def smooth(*shape: int, seed: int = 1) -> torch.Tensor:
    """Values whose channels (the second axis) are mixtures of a few."""
    few = numbers(shape[0], max(2, shape[1] // 8), *shape[2:], seed=seed)
    return torch.einsum("nk...,kc->nc...", few, numbers(few.shape[1], shape[1], seed=2)) + 0.1 * numbers(
        *shape
    )


def full(module: nn.Module, x: torch.Tensor, scheme: str) -> nn.Module:
    result = decompose(module, ranks={"*": "full"}, example_inputs=x, no_data=True, schemes=scheme)
    assert result.plan.choices
    return result.model.module


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-12) -> None:
    scale = float((wanted.max() - wanted.min()).detach())
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(("axes", "bias"), [(1, True), (2, False), (3, True)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "output_padding", "dilation", "groups"),
    [
        ((3, 4, 2), 1, 0, 0, 1, 1), ((4, 4, 4), 2, 1, 0, 1, 1), ((3, 3, 3), 2, 1, 1, 1, 2),
        ((2, 3, 2), 3, 2, 2, 2, 1), ((1, 3, 1), 2, 0, 1, 1, 1), ((5, 2, 3), (2, 3, 1), (1, 0, 2), 0, 1, 2),
    ],
)  # fmt: skip
def test_every_transposed_geometry(axes, bias, kernel, stride, padding, output_padding, dilation, groups):
    cut = [value[:axes] if isinstance(value, tuple) else value for value in (kernel, stride, padding)]
    module = TRANSPOSED[axes](8, 6, *cut, output_padding, groups, bias, dilation).double()
    x = numbers(2, 8, *(5, 6, 4)[:axes]).double()
    (layer,) = TorchModel(module, x).convolutions()
    assert layer.geometry.output_size(layer.input_sizes[0]) == module(x).shape[2:]
    taking = [name for name in SCHEMES if SCHEMES[name].rejection(layer.geometry) is None]
    for scheme in taking:
        close(full(module, x, scheme)(x), module(x))


@pytest.mark.parametrize("shape", [(6,), (3, 6), (3, 5, 6), (2, 3, 4, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_every_linear_input(shape, bias):
    module = nn.Linear(6, 9, bias).double()
    x = numbers(*shape).double()
    new = full(module, x, "channel")
    assert [type(one) for one in new] == [nn.Linear, nn.Linear]
    close(new(x), module(x))


def test_macs_count_positions():
    (layer,) = TorchModel(nn.Linear(6, 9), numbers(3, 5, 4, 6)).convolutions()
    assert layer.input_sizes == ((20,),)
    assert layer.macs == 20 * 54
    (layer,) = TorchModel(nn.ConvTranspose2d(4, 6, 4, 2, 1), numbers(3, 4, 5, 7)).convolutions()
    assert layer.macs == 35 * 4 * 6 * 16


class Mixed(nn.Module):
    """An encoder, a transposed convolution, and two linear layers, all with correlated inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(32, 32, 4, 2, 1)
        self.hidden = nn.Linear(32, 64)
        self.out = nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x).relu().flatten(2).transpose(1, 2)
        return self.out(self.hidden(x).relu()).mean(1)


@pytest.fixture
def mixed() -> Mixed:
    torch.manual_seed(0)
    return Mixed().eval()


def error(module: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        wanted = module(x)
        return float((other(x) - wanted).norm() / (wanted - wanted.mean()).norm())


@pytest.mark.parametrize("name", ["up", "hidden", "out"])
def test_a_fit_to_data_is_better_than_one_to_weights_and_keeps_its_promise(mixed, name):
    data, holdout = smooth(24, 32, 6, 6), smooth(8, 32, 6, 6, seed=3)
    one = {"only": name, "ranks": {name: 8}}
    fitted = decompose(mixed, data=data, schemes=("channel", "input"), calibration=BARE, **one)
    blind = decompose(
        mixed, no_data=True, example_inputs=data[:1], schemes=fitted.plan.choices[0].scheme, **one
    )
    assert error(mixed, fitted.model.module, holdout) < 0.7 * error(mixed, blind.model.module, holdout)
    # What the plan predicts is the layer's own error on what it sees.
    seen = {}
    mixed.get_submodule(name).register_forward_hook(lambda m, given, out: seen.update(x=given[0], y=out))
    with torch.no_grad():
        mixed(data)
        lost = fitted.model.module.get_submodule(name)(seen["x"]) - seen["y"]
    axes = tuple(a for a in range(lost.dim()) if a != (1 if name == "up" else lost.dim() - 1))
    variance = (seen["y"] - seen["y"].mean(axes, keepdim=True)).square().sum()
    measured = float((lost.square().sum() / variance).sqrt())
    assert fitted.plan.choices[0].relative_error == pytest.approx(measured, rel=0.02)


def test_a_budget_counts_all_kinds_and_the_plan_is_carried_out_again(mixed, tmp_path):
    data = smooth(24, 32, 6, 6)
    result = decompose(mixed, data=data, macs=0.6, multiple=4)
    assert {choice.geometry.layer_type for choice in result.plan.choices} == {"transposed", "linear"}
    assert result.plan.totals.macs_ratio <= 0.6
    state, plan = result.save(tmp_path)
    again = apply_plan(
        twofold.Plan.load(plan), mixed, torch.load(state, weights_only=True), example_inputs=data
    )
    close(again.model.module(data), result.model.module(data), 0)
    assert again.plan.to_json() == plan.read_text()


def test_the_reference_rule_leaves_other_kinds(mixed):
    plan = decompose(mixed, rule="amct", example_inputs=smooth(1, 32, 6, 6)).plan
    assert not plan.choices
    assert {skipped.reason for skipped in plan.skipped} == {
        "AMCT decomposes convolutions only, not a layer that is transposed",
        "a fully connected layer; scheme 'channel' takes it",
    }


def reasons(module: nn.Module, x: torch.Tensor | None = None) -> dict[str, str]:
    return {one.name: one.reason for one in TorchModel(module, x).convolutions() if isinstance(one, Skipped)}


def test_attention_reads_its_weights_by_itself():
    module = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    found = reasons(module)
    assert set(found) == {"self_attn.out_proj", "self_attn.in_proj_weight", "linear1", "linear2"}
    assert found.pop("self_attn.in_proj_weight").startswith("MultiheadAttention computes this matrix product")
    assert all("its weight is read by the" in reason for reason in found.values())
    decoder = nn.TransformerDecoderLayer(16, 2, 32, batch_first=True).eval()
    layers = {one.name for one in TorchModel(decoder).convolutions() if isinstance(one, ConvLayer)}
    assert layers == {"linear1", "linear2"}
    x = numbers(2, 5, 16)
    result = decompose(decoder, ranks={"*": "full"}, example_inputs=(x, x), no_data=True, schemes="channel")
    close(result.model.module(x, x), decoder(x, x), 1e-5)


def test_a_weight_tied_to_an_embedding_stays():
    module = nn.ModuleDict({"embed": nn.Embedding(32, 16), "head": nn.Linear(16, 32)})
    module["head"].weight = module["embed"].weight
    assert reasons(module) == {"head": "its weight is also 'embed.weight'"}


def test_depthwise_upsampling_stays():
    module = nn.Sequential(nn.ConvTranspose2d(32, 32, 4, 2, 1, groups=32), nn.Linear(64, 64))
    plan = decompose(module, macs=0.9, schemes="channel").plan
    assert re.match("depthwise", next(s.reason for s in plan.skipped if s.name == "0"))


def test_a_size_given_at_the_call_is_noticed():
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(32, 32, 3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.up(x, output_size=(12, 12))

    assert reasons(Sized(), numbers(1, 32, 6, 6)) == {
        "up": "is called with more than its input, which a stack does not take"
    }


def test_linear_layers_that_share_a_weight_share_its_factors():
    module = nn.ModuleDict({"a": nn.Linear(16, 16), "b": nn.Linear(16, 16)})
    module["b"].weight = module["a"].weight
    result = decompose(module, ranks={"a": 4}, no_data=True, schemes="channel")
    new = result.model.module
    assert new["a"][0].weight is new["b"][0].weight
    assert new["a"][1].bias is not new["b"][1].bias
    x = np.ones((2, 16), np.float32)
    shift = module["b"](torch.from_numpy(x)) - module["a"](torch.from_numpy(x))
    torch.testing.assert_close(new["b"](torch.from_numpy(x)) - new["a"](torch.from_numpy(x)), shift)
