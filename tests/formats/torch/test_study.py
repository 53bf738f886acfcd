"""What a look before the long work finds: which layers only calls reach, and what everything costs."""

from __future__ import annotations

import re

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import twofold  # noqa: E402
from twofold.conv import ConvLayer, Skipped  # noqa: E402
from twofold.errors import ModelError, PlanError  # noqa: E402
from twofold.formats.torch.model import TorchModel  # noqa: E402


def conv(c_in: int = 32, c_out: int = 32) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1)


class Chain(nn.Module):
    """Three layers; subclasses do something else with `b` than call it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3), conv(), conv()

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.middle(self.a(x).relu()).relu())


class Listed(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.todo = [self.b]

    def middle(self, x):
        return self.todo[0](x)


class Functional(Chain):
    def middle(self, x):
        return functional.conv2d(x, self.b.weight, padding=1)


class Both(Chain):
    def middle(self, x):
        return functional.conv_transpose2d(self.b(x), self.b.weight, padding=1)


class Reads(Chain):
    def middle(self, x):
        return self.b(x.to(self.b.weight.dtype))


class Stride(Chain):
    def middle(self, x):
        return self.b(x)[:, : self.b.in_channels]


class Around(Chain):
    def middle(self, x):
        return self.b._conv_forward(x, self.b.weight, self.b.bias)


class Penalty(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.seen = [self.b]

    def middle(self, x):
        return self.b(x) * self.seen[0].weight.norm()


class Merges(Chain):
    """As loralib does."""

    def __init__(self) -> None:
        super().__init__()
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if not mode and not self.merged:
            self.b.weight.data += 0.1
            self.merged = True
        return self


class Asks(Chain):
    def middle(self, x):
        if not isinstance(self.b, nn.Conv2d):
            raise TypeError("b is no convolution")
        return self.b(x)


class Branches(Chain):
    def middle(self, x):
        return self.b(x) if isinstance(self.b, nn.Conv2d) else x


WAYS = {
    Listed: "called past its name",
    Functional: "used outside of its calls .convolution in forward",
    Both: "used outside of its calls",
    Reads: "reads its weight beside calling it",
    Stride: "reads its in_channels",
    Around: "used outside of its calls",
    Penalty: "used outside of its calls",
    Merges: "reads its weight",
    Asks: "does not run as before .* .b is no convolution",
    Branches: "does not run as before .* .it gives other outputs",
}


@pytest.mark.parametrize("given", [True, False], ids=["example inputs", "none"])
@pytest.mark.parametrize("make", WAYS)
def test_layers_reached_otherwise_than_by_calls_stay_alone(make, given):
    torch.manual_seed(0)
    x = torch.randn(1, 3, 16, 16)
    layers = TorchModel(make(), x if given else None).convolutions()
    found = {one.name: one.reason for one in layers if isinstance(one, Skipped)}
    assert list(found) == ["b"]
    assert re.search(WAYS[make], found["b"]), found["b"]


def test_what_comes_back_runs_and_changes():
    result = twofold.decompose(Reads().eval(), macs=0.9, no_data=True)
    assert list(result.model.replaced) == ["c"]
    x = torch.randn(1, 3, 16, 16)
    assert not torch.equal(result.model.module(x), result.original.module(x))


# ---- what everything costs


class WithAux(Chain):
    """A head that only training calls."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(32, 1000)

    def forward(self, x):
        y = super().forward(x)
        return (y, self.aux(y.mean((2, 3)))) if self.training else y


class Attention(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def middle(self, x):
        tokens = self.b(x).flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)


class Regions(Chain):
    """As Mask R-CNN: a head that runs on regions, of which there are as many as there are."""

    def middle(self, x):
        regions = x.unfold(2, 8, 4).unfold(3, 8, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 32, 8, 8)
        return self.b(regions[1:]).mean((0, 2, 3), keepdim=True) + x


class Computed(Chain):
    """As CondConv: a weight that is a mean of experts, by what the input is."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(4, 32 * 32 * 9))
        self.route = nn.Linear(32, 4)

    def middle(self, x):
        weight = torch.softmax(self.route(x.mean((2, 3)))[:1], 1) @ self.experts
        return functional.conv2d(self.b(x), weight.view(32, 32, 3, 3), padding=1)


class Scripted(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.b = torch.jit.script(conv())


class Same(nn.Conv2d):
    """As timm's Conv2dSame: pads by itself."""

    def forward(self, x):
        return self._conv_forward(functional.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class Dynamic(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.b = Same(32, 32, 3)


class Checkpointed(Chain):
    def middle(self, x):
        return checkpoint(self.b, checkpoint(self.b, x, use_reentrant=False), use_reentrant=True)


class Offsets(Chain):
    """A layer that runs once per batch, whatever is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Linear(16, 32)

    def middle(self, x):
        return self.b(x) + self.offset(torch.ones(1, 16))[:, :, None, None]


def flops(module: nn.Module, x: torch.Tensor) -> int:
    aten = torch.ops.aten
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # which counts nothing
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    counts = counter.get_flop_counts()["Global"]
    return sum(counts.get(one, 0) for one in (aten.convolution, aten.mm, aten.addmm)) // 2


@pytest.mark.parametrize(
    "make", [WithAux, Attention, Regions, Computed, Scripted, Dynamic, Checkpointed, Offsets, Functional]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")
def test_macs_are_those_of_an_independent_count(make):
    torch.manual_seed(0)
    module, x = make().eval(), torch.randn(2, 3, 16, 16)
    result = twofold.decompose(module, macs=0.85, multiple=4, no_data=True, example_inputs=x)
    plan = result.plan
    assert plan.macs_per == "image"
    assert plan.totals.macs[0] == pytest.approx(flops(module, x) / 2, abs=1)
    assert plan.totals.macs[1] == pytest.approx(flops(result.model.module, x) / 2, rel=1e-6)
    assert plan.totals.macs_ratio <= 0.85


def test_what_no_layer_computes_is_listed_with_its_cost():
    x = torch.randn(1, 3, 16, 16)
    found = {one.name: one for one in TorchModel(Computed(), x).convolutions()}
    assert found["experts"].macs == found["experts"].params == 4 * 32 * 32 * 9
    assert "Computed computes a convolution by itself" in found["(module)"].reason
    assert found["(module)"].macs == 32 * 32 * 9 * 256
    found = {one.name: one for one in TorchModel(Attention(), x).convolutions()}
    assert found["attention.in_proj_weight"].macs == 3 * 32 * 32 * 256
    assert found["attention.out_proj"].macs == 32 * 32 * 256
    found = {one.name: one for one in TorchModel(WithAux(), x).convolutions()}
    assert (found["aux"].macs, found["aux"].reason) == (0, "is never called with the example inputs")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_scripted_layers_are_listed_without_inputs_too():
    module = nn.Sequential(conv(3), torch.jit.script(nn.Sequential(conv(), conv())))
    found = {one.name: one for one in TorchModel(module).convolutions()}
    assert isinstance(found["0"], ConvLayer)
    assert all("scripted" in found[f"1.{i}.weight"].reason for i in "01")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize(
    "given",
    [{"no_data": True, "example_inputs": torch.randn(1, 3, 16, 16)}, {"data": torch.randn(6, 3, 16, 16)}],
    ids=["weights alone", "data"],
)
def test_layers_beside_scripted_ones_are_calibrated_and_tried(given):
    module = nn.Sequential(torch.jit.script(nn.Sequential(conv(3))), nn.ReLU(), conv(), nn.ReLU(), conv())
    result = twofold.decompose(module.eval(), macs=0.6, refine=0, **given)
    assert [choice.layer for choice in result.plan.choices] == ["2", "4"]
    assert not [text for text in result.warnings if "was not run" in text]
    copied = dict(result.model.module.named_parameters())
    assert all(copied[name].requires_grad for name in ("0.0.weight", "2.0.weight"))


# ---- what has no weights yet, or cannot be run


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_lazy_layers():
    def module() -> nn.Module:
        return nn.Sequential(nn.LazyConv2d(32, 3), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.LazyLinear(8))

    lazy, x = module(), torch.randn(1, 3, 16, 16)
    result = twofold.decompose(lazy, macs=0.9, no_data=True, example_inputs=x)
    assert result.model.module(x).shape == (1, 8)
    assert "0, 3: lazy layers" in result.warnings[0]
    assert isinstance(lazy[0].weight, nn.UninitializedParameter)  # the user's own stays
    with pytest.raises(PlanError, match="is lazy and has no weights yet; run the module once"):
        twofold.decompose(nn.Sequential(nn.LazyConv2d(32, 3)), macs=0.9)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_module_that_cannot_be_copied_says_what_stands_in_the_way():
    module = nn.Sequential(conv(3), nn.utils.weight_norm(conv()))
    with pytest.raises(ModelError, match="; 1 has its weight computed by weight_norm; "):
        twofold.decompose(module, macs=0.5, example_inputs=torch.randn(1, 3, 16, 16))


class Two(Chain):
    def forward(self, x, scale):
        return super().forward(x) * scale


def test_a_module_that_nothing_is_known_of_says_that_it_was_not_tried():
    result = twofold.decompose(Two(), macs=0.9)
    assert any("could not be run" in one and "example_inputs" in one for one in result.warnings)
    assert any("per output position" in one for one in result.warnings)


def test_arguments_without_axes_are_passed_on():
    x = torch.randn(2, 3, 16, 16)
    result = twofold.decompose(Two(), macs=0.9, example_inputs=(x, torch.tensor(2.0)), refine=0)
    assert result.plan.calibration is not None


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_do_not_stand_in_the_way_of_gradients(reentrant):
    class Net(Chain):
        def middle(self, x):
            return checkpoint(self.b, x, use_reentrant=reentrant)

    result = twofold.decompose(Net(), macs=0.9, data=torch.randn(4, 3, 8, 8), refine=0)
    assert result.plan.calibration is not None
    assert result.plan.choices


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv1d(1, 64, 9), nn.ReLU(), nn.Conv1d(64, 64, 9)),
        nn.Sequential(nn.Conv2d(16, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1)),
        nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64)),
    ],
    ids=["Conv1d", "1x1", "fully connected"],
)
def test_nets_that_only_channel_takes_get_it_from_weights_alone(module):
    result = twofold.decompose(module, macs=0.7, no_data=True)
    assert {choice.scheme for choice in result.plan.choices} == {"channel"}
