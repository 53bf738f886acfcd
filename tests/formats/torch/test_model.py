"""PyTorch modules: which convolutions there are, what replacing them keeps, and what is rejected."""

from __future__ import annotations

import copy
import itertools
import pickle
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm  # noqa: E402

import twofold  # noqa: E402
from twofold.conv import Skipped  # noqa: E402
from twofold.decomposition.apply import apply_plan  # noqa: E402
from twofold.decomposition.decompose import decompose  # noqa: E402
from twofold.errors import InputError, ModelError, OptionError, PlanError  # noqa: E402
from twofold.formats.torch.model import TorchModel  # noqa: E402
from twofold.lowrank import SCHEMES  # noqa: E402

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Net(nn.Module):
    """Two convolutions that can be decomposed, and a 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(16, 64, 3, padding=1)
        self.body = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1, bias=False))
        self.head = nn.Conv2d(64, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.conv1(x)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def image(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape or (2, 16, 12, 12), generator=torch.Generator().manual_seed(1)).to(dtype)


def full(module: nn.Module, x: object = None, **options) -> nn.Module:
    """The module with every layer that a scheme takes at full rank."""
    result = decompose(module, ranks={"*": "full"}, example_inputs=x, no_data=True, **options)
    assert result.plan.choices
    return result.model.module


def assert_close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert got.dtype == wanted.dtype
    scale = float((wanted.max() - wanted.min()).detach())
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * scale)


def test_the_result_is_a_new_module_of_plain_ones(net):
    before = copy.deepcopy(net.state_dict())
    result = decompose(net, ranks={"conv1": 16, "body.2": 32}, example_inputs=image(), no_data=True)
    new = result.model.module
    assert dict(result.model.replaced) == {
        "conv1": ("conv1.0", "conv1.1"), "body.2": ("body.2.0", "body.2.1")
    }  # fmt: skip
    assert {type(m) for m in new.modules()} == {
        Net, nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU
    }  # fmt: skip
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert isinstance(net.conv1, nn.Conv2d)
    assert new.head.weight.data_ptr() != net.head.weight.data_ptr()


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_full_rank_gives_the_same_output(net, scheme):
    x = image()
    assert_close(full(net, x, schemes=scheme)(x), net(x))


PADS = {
    "zeros": {"padding": 2},
    "same": {"padding": "same"},
    "valid": {"padding": "valid"},
    **{mode: {"padding": 1, "padding_mode": mode} for mode in ("reflect", "replicate", "circular")},
    **{f"same {m}": {"padding": "same", "padding_mode": m} for m in ("reflect", "replicate", "circular")},
}


STEPS = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 1, 2)]
#: Every padding with every step that PyTorch has; the number of axes takes turns.
COMBINED = [
    (1 + number % len(CONVS), pads, steps)
    for number, (pads, steps) in enumerate(itertools.product(PADS, STEPS))
    if steps[0] == 1 or "same" not in pads
]


@pytest.mark.parametrize(("axes", "pads", "steps"), COMBINED)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_every_geometry(axes, pads, steps):
    stride, dilation, groups = steps
    kernel = (3, 4, 2)[:axes]
    moved = {"stride": stride, "dilation": dilation, "groups": groups}
    module = CONVS[axes](4, 6, kernel, **moved, **PADS[pads]).double()
    x = image(2, 4, *(9, 10, 11)[:axes], dtype=torch.float64)
    (layer,) = TorchModel(module, x).convolutions()
    assert layer.geometry.output_size(layer.input_sizes[0]) == module(x).shape[2:]
    for scheme in SCHEMES:
        if SCHEMES[scheme].rejection(layer.geometry) is None:
            assert_close(full(module, x, schemes=scheme)(x), module(x), 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 8e-2)])
def test_half_precision_stays(dtype, tolerance):
    module = nn.Conv2d(20, 24, 3, dtype=dtype)
    x = image(1, 20, 9, 9, dtype=dtype)
    new = full(module, x)
    assert {p.dtype for p in new.parameters()} == {dtype}
    assert_close(new(x), module(x), tolerance)


def test_layout_gradients_and_mode_stay(net):
    net = net.to(memory_format=torch.channels_last).train()
    net.conv1.eval()
    net.conv1.bias.requires_grad_(False)
    net.body[2].weight.requires_grad_(False)
    new = full(net, image())
    assert [m.training for m in (new, new.conv1, new.conv1[0], new.body[2][1])] == [True, False, False, True]
    assert new.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not new.conv1[0].weight.is_contiguous()
    assert [p.requires_grad for p in new.conv1.parameters()] == [True, True, False]
    assert [p.requires_grad for p in new.body[2].parameters()] == [False, False]
    assert new.body[0].num_batches_tracked == 0  # nothing was counted while sizes were looked at


def test_the_random_state_stays(net):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    decompose(net, macs=0.5)
    assert torch.equal(torch.get_rng_state(), state)


class Shared(nn.Module):
    """One module under two names, and two modules with one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.again = self.a
        self.tied = nn.Conv2d(8, 8, 3, padding=1)
        self.tied.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tied(self.again(self.a(x).relu()).relu())


def test_what_is_shared_stays_shared():
    module, x = Shared(), image(1, 8, 9, 9)
    (layer,) = TorchModel(module, x).convolutions()
    assert layer.sharers == ("again", "tied")
    assert layer.input_sizes == ((9, 9),) * 3
    new = full(module, x)
    assert new.again is new.a
    assert [a.weight is b.weight for a, b in zip(new.a, new.tied, strict=True)] == [True, True]
    assert new.tied[1].bias is not new.a[1].bias
    assert_close(new(x), module(x))


def test_a_corrected_bias_reaches_every_sharer():
    module, x = Shared(), image(1, 8, 9, 9)
    model = TorchModel(module, x)
    (layer,) = model.convolutions()
    stack = SCHEMES["channel"].factorize(layer, "").factors((8,))
    shift = np.arange(8, dtype=np.float32)
    last = twofold.conv.FactorConv(stack.convs[1].geometry, stack.convs[1].weight, layer.bias + shift)
    new = model.replace({"a": twofold.Factors("channel", (8,), (stack.convs[0], last))}).module
    with torch.no_grad():
        module.a.bias += torch.from_numpy(shift)
        module.tied.bias += torch.from_numpy(shift)
    assert_close(new(x), module(x))


class Own(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Renamed(nn.Conv2d):
    """Nothing of its own."""


def hooked(register: str) -> nn.Module:
    module = nn.Conv2d(4, 4, 3)
    getattr(module, register)(lambda *_: None)
    return module


def norm(function, *args) -> nn.Module:
    return function(nn.Conv2d(4, 4, 3), *args)


def monkeypatched() -> nn.Module:
    module = nn.Conv2d(4, 4, 3)
    module.forward = lambda x: x
    return module


def tied_elsewhere() -> nn.Module:
    module = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 1), "other": nn.Conv2d(4, 4, 1)})
    module["other"].register_parameter("copy", module["conv"].weight)
    return module


REFUSED = {
    "forward of its own": lambda: Own(4, 4, 3),
    "a subclass with a forward": monkeypatched,
    "has forward hooks": lambda: hooked("register_forward_hook"),
    "has forward pre hooks": lambda: hooked("register_forward_pre_hook"),
    "has backward hooks": lambda: hooked("register_full_backward_hook"),
    r"pruning; .*prune.remove\(layer, 'weight'": lambda: norm(prune.l1_unstructured, "weight", 2),
    "has parametrizations .*remove_parametrizations": lambda: norm(parametrizations.weight_norm),
    r"weight_norm; .*nn.utils.remove_weight_norm\(layer": lambda: norm(weight_norm),
    "spectral_norm; .*nn.utils.remove_spectral_norm": lambda: norm(spectral_norm),
    "forward of its own .Doubled": lambda: Doubled(4, 4),
    "read by the MultiheadAttention": lambda: nn.MultiheadAttention(8, 2),
    "no values yet .device meta": lambda: nn.Conv2d(4, 4, 3, device="meta"),
    "is lazy and has no weights yet": lambda: nn.LazyConv2d(4, 3),
    "complex64": lambda: nn.Conv2d(4, 4, 3, dtype=torch.complex64),
    "weight is also 'other.copy'": tied_elsewhere,
}


@pytest.mark.parametrize("reason", REFUSED)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_what_cannot_be_replaced_is_said(reason):
    skipped = TorchModel(REFUSED[reason]()).convolutions()[0]
    assert isinstance(skipped, Skipped)
    assert re.search(reason, skipped.reason), skipped.reason


def test_a_subclass_without_a_forward_becomes_plain():
    module, x = Renamed(8, 8, 3), image(1, 8, 9, 9)
    new = full(module, x)
    assert {type(m) for m in new} == {nn.Conv2d}
    assert_close(new(x), module(x))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantized_modules_are_listed():
    module = torch.ao.nn.quantized.Conv2d(4, 4, 3)
    (skipped,) = TorchModel(nn.Sequential(module)).convolutions()
    assert "quantized" in skipped.reason


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda net: torch.jit.trace(net, image()), "scripted or traced"),
        (torch.compile, "is compiled"),
        (nn.DataParallel, "wrapped in DataParallel"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrappers_are_refused(net, make, reason):
    with pytest.raises(ModelError, match=reason):
        decompose(make(net), macs=0.5)


def test_bad_inputs(net):
    with pytest.raises(InputError, match="Net does not run on the inputs"):
        decompose(net, macs=0.5, example_inputs=torch.zeros(1, 3, 8, 8))
    with pytest.raises(OptionError, match="a value of type OrderedDict is no model"):
        decompose(net.state_dict(), macs=0.5)


@pytest.mark.parametrize("given", [image(), (image(),), [image()], {"x": image()}])
def test_example_inputs_may_be_given_in_several_ways(net, given):
    assert [layer.input_sizes for layer in TorchModel(net, given).convolutions()] == [((12, 12),)] * 3


# ---- what can be done with the result


def test_it_pickles_and_copies(net):
    new, x = full(net, image()), image()
    assert_close(pickle.loads(pickle.dumps(new))(x), new(x), 0)
    assert_close(copy.deepcopy(new)(x), new(x), 0)


def test_the_file_has_no_more_than_the_weights(net, tmp_path):
    result = decompose(net, ranks={"conv1": 8}, only="conv1", example_inputs=image(), no_data=True)
    path, _ = result.save(tmp_path)
    count = sum(tensor.numel() for tensor in result.model.module.state_dict().values())
    assert path.stat().st_size < 4 * count + 16384


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_scripts_and_traces(net):
    new, x = full(net, image()), image()
    assert_close(torch.jit.script(new)(x), new(x))
    assert_close(torch.jit.trace(new, x)(x), new(x))


def test_it_exports(net):
    new, x = full(net, image()), image()
    assert_close(torch.export.export(new, (x,)).module()(x), new(x))


def test_it_compiles(net):
    new, x = full(net, image()), image()
    with torch.no_grad():
        assert_close(torch.compile(new, backend="eager", fullgraph=True)(x), new(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_becomes_an_onnx_model_whose_names_tell_its_own(net, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    new, x = decompose(net, macs=0.6, example_inputs=image(), no_data=True).model.module, image()
    path = tmp_path / "net.onnx"
    torch.onnx.export(new, (x,), str(path), input_names=["x"], dynamo=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    assert_close(torch.from_numpy(found), new(x))


def test_it_trains(net):
    new, x = decompose(net, macs=0.5, example_inputs=image(), no_data=True).model.module.train(), image()
    optimizer = torch.optim.SGD(new.parameters(), 0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (new(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_state_is_loaded_into_a_rebuilt_structure(net, tmp_path):
    result = decompose(net, macs=0.5, example_inputs=image(), schemes="spatial")
    state, plan = result.save(tmp_path)
    torch.manual_seed(7)
    state = torch.load(state, weights_only=True)
    again = apply_plan(twofold.Plan.load(plan), Net().eval(), state).model.module
    again.load_state_dict(state)
    x = image()
    assert_close(again(x), result.model.module(x), 0)


def test_plans_are_the_same_each_time(net, tmp_path):
    asked = {"macs": 0.5, "example_inputs": image(), "schemes": "spatial"}
    first, again = (decompose(net, **asked).save(tmp_path / n) for n in "ab")
    plan, state = twofold.Plan.load(first[1]), torch.load(first[0], weights_only=True)
    applied = apply_plan(plan, net, state, example_inputs=image()).save(tmp_path / "c")
    for files in (again, applied):
        assert [p.read_bytes() for p in files] == [p.read_bytes() for p in first]


def test_a_fitted_plan_takes_its_factors_from_a_module_too(net):
    result, x = decompose(net, macs=0.5, example_inputs=image(), schemes="spatial"), image()
    again = apply_plan(result.plan, net, result.model.module, example_inputs=x).model.module
    assert_close(again(x), result.model.module(x), 0)
    with pytest.raises(PlanError, match="fitted to inputs"):
        apply_plan(result.plan, net)
    state = result.model.module.state_dict()
    name = f"{result.plan.choices[0].becomes[0]}.weight"
    for wrong in ({**state, name: state[name][1:]}, {k: v for k, v in state.items() if k != name}):
        with pytest.raises(PlanError, match="does not hold its factors"):
            apply_plan(result.plan, net, wrong)


def test_names_of_modules_that_are_containers():
    module = nn.ModuleList([nn.Conv2d(8, 8, 3), nn.ModuleDict({"x": nn.Conv2d(8, 8, 3)})])
    result = decompose(module, ranks={"*": 4})
    assert dict(result.model.replaced) == {"0": ("0.0", "0.1"), "1.x": ("1.x.0", "1.x.1")}
    assert [name for name, m in result.model.module.named_modules() if isinstance(m, nn.Conv2d)] == [
        "0.0", "0.1", "1.x.0", "1.x.1"
    ]  # fmt: skip


def test_hooks_of_other_modules_stay(net):
    seen = []
    net.body.register_forward_hook(lambda *_: seen.append("body"))
    new = full(net)
    seen.clear()
    new(image())
    assert seen == ["body"]


def test_factors_that_half_precision_cannot_hold():
    model = TorchModel(nn.Conv2d(4, 4, 3, dtype=torch.float16))
    (layer,) = model.convolutions()
    stack = SCHEMES["spatial"].factorize(layer, "hw").factors((1,))
    last = twofold.conv.FactorConv(stack.convs[1].geometry, stack.convs[1].weight * 1e9, layer.bias)
    with pytest.raises(ModelError, match=r"too large for torch\.float16"):
        model.replace({"(module)": twofold.Factors("spatial", (1,), (stack.convs[0], last))})
