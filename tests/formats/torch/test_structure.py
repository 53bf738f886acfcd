"""`Plan.apply`: the structure of a decomposed module, made anew to load its state into."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import twofold  # noqa: E402
from twofold.calibration.gather import CalibrationOptions  # noqa: E402
from twofold.errors import OptionError, PlanError  # noqa: E402


class Net(nn.Module):
    """One layer of every kind; `again` is `twice`, and `tied` has its weight and a bias of its own."""

    def __init__(self, side: int = 3) -> None:
        super().__init__()
        self.plain = nn.Conv2d(16, 32, side, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.grouped = nn.Conv2d(32, 32, 3, stride=2, padding="valid", groups=2)
        self.twice = nn.Conv2d(32, 32, 3, padding="same", padding_mode="reflect", bias=False)
        self.again = self.twice
        self.tied = nn.Conv2d(32, 32, 3, padding="same", padding_mode="reflect")
        self.tied.weight = self.twice.weight
        self.up = nn.ConvTranspose2d(32, 24, 4, 2, 1, output_padding=1)
        self.head = nn.Linear(24, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.norm(self.plain(x)).relu()).relu()
        x = self.tied(self.again(self.twice(x).relu()).relu()).relu()
        return self.head(self.up(x).mean((2, 3)))


RANKS = {"plain": 12, "grouped": 5, "twice": 10, "up": 9, "head": 8}


def made(seed: int, **kwargs: int) -> Net:
    torch.manual_seed(seed)
    return Net(**kwargs).eval()


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def assert_takes_the_state(result: twofold.Result, module: nn.Module) -> nn.Module:
    """The plan makes, of a module with other weights, what takes the state of the decomposed one."""
    smaller, before = result.model.module, copy.deepcopy(module.state_dict())
    again = twofold.Plan.from_json(result.plan.to_json()).apply(module)
    for (name, one), (other_name, other) in zip(
        again.named_parameters(), smaller.named_parameters(), strict=True
    ):
        assert (name, one.shape, one.dtype, one.device, one.stride(), one.requires_grad) == (
            other_name, other.shape, other.dtype, other.device, other.stride(), other.requires_grad
        )  # fmt: skip
    assert [(name, str(one)) for name, one in again.named_modules()] == [
        (name, str(one)) for name, one in smaller.named_modules()
    ]
    again.load_state_dict(smaller.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    return again


@pytest.mark.parametrize("data", [None, numbers(20, 16, 12, 12)], ids=["weights", "data"])
def test_every_kind(data, tmp_path):
    how = {"no_data": True, "example_inputs": numbers(1, 16, 12, 12)} if data is None else {"data": data}
    result = twofold.decompose(made(0), ranks=RANKS, schemes=("spatial", "channel"), **how)
    assert [choice.layer for choice in result.plan.choices] == list(RANKS)
    again = assert_takes_the_state(result, made(7))
    x = numbers(3, 16, 12, 12)
    torch.testing.assert_close(again(x), result.model.module(x), rtol=0, atol=0)
    assert again.twice is again.again
    assert again.tied[0].weight is again.twice[0].weight
    # A fit to data corrects the mean, so that its stacks have a bias that the layer had not.
    assert (again.plain[1].bias is not None) is (data is not None)
    state, plan = result.save(tmp_path)
    there = twofold.Plan.load(plan).apply(made(8))
    there.load_state_dict(torch.load(state, weights_only=True))
    torch.testing.assert_close(there(x), again(x), rtol=0, atol=0)


@pytest.mark.parametrize("scheme", ["input", "tucker2"])
@pytest.mark.parametrize("groups", [1, 2])
def test_every_scheme(scheme, groups):
    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(16, 24, 3, groups=groups), nn.ReLU(), nn.Conv2d(24, 8, 1))

    ranks = {"0": 6 if scheme == "input" else (6, 6)}
    result = twofold.decompose(net(), ranks=ranks, data=numbers(16, 16, 9, 9), schemes=scheme)
    assert len(result.model.module[0]) == (3 if scheme == "tucker2" else 2)
    again, x = assert_takes_the_state(result, net()), numbers(2, 16, 9, 9)
    torch.testing.assert_close(again(x), result.model.module(x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_what_the_layers_are_made_of_is_kept(dtype):
    def net(seed: int) -> nn.Module:
        module = made(seed).to(dtype).to(memory_format=torch.channels_last)
        module.plain.weight.requires_grad_(False)
        module.up.bias.requires_grad_(False)
        return module

    result = twofold.decompose(net(0), ranks=RANKS, schemes=("spatial", "channel"), no_data=True)
    again = assert_takes_the_state(result, net(7))
    assert not again.plain[0].weight.requires_grad
    assert again.up[1].weight.requires_grad
    assert not again.up[1].bias.requires_grad
    assert again.plain[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not again.training


def test_new_layers_are_drawn_as_any():
    result = twofold.decompose(made(0), ranks=RANKS, schemes=("spatial", "channel"), no_data=True)
    again = result.plan.apply(made(0).train())
    assert again.training
    assert again.plain[0].training
    for own in again.modules():
        if isinstance(own, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            bound = 1 / np.sqrt(nn.init._calculate_fan_in_and_fan_out(own.weight)[0])
            assert 0.5 * bound < own.weight.detach().abs().max() <= bound


def test_a_layer_that_is_the_whole_module():
    result = twofold.decompose(nn.Conv2d(16, 16, 3), ranks={"*": 4}, no_data=True)
    assert_takes_the_state(result, nn.Conv2d(16, 16, 3))


def test_layers_that_were_fitted_to_their_weights_alone_have_no_bias_of_their_own():
    """Beside others that were fitted to data: too many channels for what memory is there."""
    result = twofold.decompose(
        made(0), ranks=RANKS, schemes=("spatial", "channel"), data=numbers(20, 16, 12, 12),
        calibration=CalibrationOptions(memory=1),
    )  # fmt: skip
    assert_takes_the_state(result, made(7))


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (made(0, side=5), r"plain: is 16->32 5x5.* in this model and 16->32 3x3.* in the plan"),
        (nn.Sequential(nn.Conv2d(16, 32, 3)), r"in 5 places:\n  plain: the model has no such convolution"),
        (nn.utils.parametrizations.weight_norm(made(0).plain), "the model has no such convolution"),
        (made(0).to("meta"), "plain: cannot be decomposed in this model: its weight has no values yet"),
    ],
    ids=["shape", "names", "module", "meta"],
)
def test_what_does_not_fit(net, said):
    plan = twofold.decompose(made(0), ranks=RANKS, schemes=("spatial", "channel"), no_data=True).plan
    with pytest.raises(PlanError, match=said):
        plan.apply(net)


def test_only_modules_have_a_structure():
    plan = twofold.decompose(made(0), ranks=RANKS, schemes=("spatial", "channel"), no_data=True).plan
    with pytest.raises(OptionError, match="got dict; for a model that was loaded from files use"):
        plan.apply({})
