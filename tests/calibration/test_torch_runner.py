"""The runner for PyTorch modules: what it shows, swaps and protects, and that it leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import twofold  # noqa: E402
from twofold.backends import as_model, with_data  # noqa: E402
from twofold.calibration.runners import runner_for  # noqa: E402
from twofold.calibration.source import CalibrationSource, calibration_inputs  # noqa: E402
from twofold.conv import ConvLayer, FactorConv, Factors  # noqa: E402
from twofold.errors import InputError, OptionError  # noqa: E402
from twofold.formats.torch.model import TorchModel  # noqa: E402
from twofold.lowrank import LayerFit  # noqa: E402


class Net(nn.Module):
    """As tests.small.NET, with operations in place; `two` may be called several times."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.one = nn.Conv2d(16, 64, 3, padding=1)
        self.two = nn.Conv2d(64, 64, 3, padding=1)
        self.out = nn.Conv2d(64, 5, 1)
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        for _ in range(self.times):
            x = torch.relu_(self.two(x))
        return self.out(x)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def example(count: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 16, 12, 12, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 2) -> dict[str, np.ndarray]:
    return {"x": example(count, seed=5).numpy()}


def runner_of(module, x=None, targets=()):
    return runner_for(TorchModel(module, example() if x is None else x), targets)


def layers_of(module):
    return [one for one in TorchModel(module, example()).convolutions() if isinstance(one, ConvLayer)]


def changed(layer, bias):
    return Factors("spatial", (), (FactorConv(layer.geometry, layer.weight, bias),))


def test_what_is_fed_protected_and_reached(net):
    runner = runner_of(net)
    assert runner.inputs == {"x": (16, 12, 12)}
    assert runner.outputs == runner.network_outputs == ("output",)
    assert runner.differentiable
    assert [layer.name for layer in runner.reached(layers_of(net)[::-1])] == ["one", "two", "out"]


def test_watch_shows_every_call_before_what_works_in_place(net):
    runner = runner_of(net)
    seen = {one.layer: one.inputs for one in runner.record_inputs(layers_of(net), batch())}
    np.testing.assert_array_equal(seen["one"], batch()["x"])
    with torch.no_grad():
        np.testing.assert_allclose(seen["two"], net.one(torch.from_numpy(batch()["x"])).numpy(), atol=1e-6)
    twice = runner_of(Net(2))
    assert [one.layer for one in twice.record_inputs(layers_of(net), batch())] == ["one", "two", "two", "out"]


@pytest.mark.parametrize("times", [1, 2])
def test_gradients_are_those_of_a_random_projection(times):
    """The derivative by a layer's bias, by differences, is the sum of its gradients."""
    torch.manual_seed(0)
    net = Net(times)
    runner, layers, x = runner_of(net), layers_of(net), batch(1)
    seen = {}
    for one in runner.record_inputs(layers, x, np.random.default_rng(3)):
        seen[one.layer] = seen.get(one.layer, 0) + one.gradients[0].sum(axis=(1, 2))
    out = runner.run(x)["output"].astype(np.float64)
    v = np.random.default_rng(3).standard_normal(out.shape, np.float32) / np.linalg.norm(out - out.mean())
    layer, step = layers[1], 1e-4  # a longer step meets the kinks of the ReLU
    for channel in (0, 7, 63):
        values = []
        for sign in (-1, 1):
            bias = layer.bias.copy()
            bias[channel] += sign * step
            values.append(float((runner.run(x, [(layer, changed(layer, bias))])["output"] * v).sum()))
        assert seen["two"][channel] == pytest.approx((values[1] - values[0]) / (2 * step), rel=2e-2, abs=2e-4)


@pytest.mark.parametrize("times", [1, 3])
def test_trials_are_runs_with_one_layer_changed(times):
    net = Net(times)
    runner, layers, x = runner_of(net), layers_of(net), batch()
    stacks = [
        (layer, [LayerFit(layer).factorize("spatial", "hw").factors((rank,)) for rank in (3, 20)])
        for layer in layers[:2]
    ]
    original = runner.run(x)["output"]
    found = list(runner.trials(stacks, x))
    assert [(name, index) for name, index, _ in found] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    for name, index, outputs in found:
        layer, tried = next(entry for entry in stacks if entry[0].name == name)
        expected = runner.run(x, [(layer, tried[index])])["output"]
        np.testing.assert_allclose(outputs["output"], expected, rtol=1e-5, atol=1e-5)
        assert np.abs(expected - original).max() > 1e-2
    np.testing.assert_array_equal(runner.run(x)["output"], original)


def test_watch_sees_what_changed_layers_give(net):
    runner, layers, x = runner_of(net), layers_of(net), batch()
    stacks = [(layers[0], LayerFit(layers[0]).factorize("spatial", "hw").factors((9,)))]
    changed = next(one for one in runner.record_inputs(layers[1:2], x, stacks=stacks)).inputs
    plain = next(one for one in runner.record_inputs(layers[1:2], x)).inputs
    with torch.no_grad():
        smaller = TorchModel(net).replace({layer.name: stack for layer, stack in stacks}).module
        wanted = smaller.one(torch.from_numpy(x["x"])).numpy()
    np.testing.assert_allclose(changed, wanted, atol=1e-5)
    assert np.abs(changed - plain).max() > 1e-2


def test_the_module_stays_as_it_is(net):
    net.train()
    net.one.weight.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = twofold.decompose(net, data=[example(8, i) for i in range(3)], macs=0.4, schemes="spatial")
    assert net.training
    assert net.two.weight.requires_grad
    assert not net.one.weight.requires_grad
    assert not net.one._forward_hooks
    assert "forward" not in vars(net.two)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert result.model.module.training
    assert not any(one.requires_grad for one in result.model.module.one.parameters() if one.dim() > 1)


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(2, 8, 3)
        self.unused = nn.Conv2d(3, 8, 3)

    def forward(self, x, y, flag=True):
        assert flag == "yes" or flag is True
        score = self.left(x)
        self.unused(x)
        return {
            "a": (score.softmax(1), score.argmax(1)),
            "b": torch.sigmoid(self.right(y)).flatten(1),
            "n": 3,
        }


def test_arguments_and_nested_results_have_names():
    x, y = torch.randn(2, 3, 9, 9), torch.randn(2, 2, 9, 9)
    model = TorchModel(Several(), (x, y, "yes"))
    runner = runner_for(model)
    assert runner.inputs == {"x": (3, 9, 9), "y": (2, 9, 9)}
    assert runner.network_outputs == ("a.0", "a.1", "b")
    assert runner.outputs == ("a.0 before softmax", "a.1 before argmax", "b before sigmoid")
    layers = [layer for layer in model.convolutions() if isinstance(layer, ConvLayer)]
    assert [layer.name for layer in runner.reached(layers)] == ["left", "right"]
    found = runner.run({"x": x.numpy(), "y": y.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found["b before sigmoid"], model.module.right(y).numpy(), atol=1e-6)
    assert runner_for(model, ("b",)).outputs == ("b",)
    with pytest.raises(OptionError, match=r"returns no 'c' to protect, only a\.0"):
        runner_for(model, ("c",))
    named = runner_for(TorchModel(Several(), {"y": y, "x": x}))
    assert set(named.inputs) == {"x", "y"}


def handed_over(module, data):
    """What a call makes of the data that it is given: the runner, and the inputs by name."""
    (model,), data = with_data((module,), None, data)
    runner = runner_for(model)
    return runner, calibration_inputs(runner, CalibrationSource(data=data)).arrays


def loader():
    for index in range(4):
        yield example(4, index), torch.zeros(4)


@pytest.mark.parametrize(
    "data",
    [
        lambda: example(16),
        lambda: [example(4, seed) for seed in range(4)],
        lambda: [(example(4, seed),) for seed in range(4)],
        lambda: [{"x": example(4, seed)} for seed in range(4)],
        loader,
        lambda: torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(example(16), torch.zeros(16)), batch_size=4
        ),
        lambda: example(16).numpy(),
        # As data sets give them: without a batch axis, and what else there is beside.
        lambda: list(example(16)),
        lambda: iter(example(16).numpy()),
        lambda: torch.utils.data.TensorDataset(example(16), torch.zeros(16)),
        lambda: [(image, index, {"id": index}) for index, image in enumerate(example(16))],
        lambda: [{"image": image, "label": 3, "name": "a"} for image in example(16)],
    ],
)
def test_data_of_every_kind(net, data):
    _, found = handed_over(net, data())
    assert found["x"].shape == (16, 16, 12, 12)
    np.testing.assert_array_equal(found["x"][0], example(16)[0].numpy())


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3)), (1, 9, 9)),
        (
            nn.Sequential(nn.Conv1d(4, 32, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 3)),
            (4, 20),
        ),
        (
            nn.Sequential(nn.Conv1d(4, 32, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 3)),
            (2, 4, 20),
        ),
        (nn.Sequential(nn.Unflatten(1, (1, 9)), nn.Conv2d(1, 32, 3)), (5, 9, 9)),
        (nn.Linear(20, 3), (4, 20)),
    ],
    ids=["one channel", "a signal", "a batch of signals", "a batch without channels", "a batch of vectors"],
)
def test_a_first_item_is_a_batch_or_a_sample_by_what_the_module_runs_on(module, shape):
    runner, found = handed_over(module.eval(), [torch.randn(shape), torch.randn(shape)])
    single = shape in ((1, 9, 9), (4, 20)) and not isinstance(module, nn.Linear)
    (array,) = found.values()
    assert array.shape == ((2, *shape) if single else (2 * shape[0], *shape[1:]))
    assert tuple(*runner.inputs.values()) == (shape if single else shape[1:])


def test_a_loader_from_beginning_to_end(net):
    plan = twofold.decompose(net, data=loader(), macs=0.4, multiple=4, schemes="spatial").plan
    assert plan.calibration["inputs"]["count"] == 14  # two more are held out
    assert plan.calibration["gradients"]
    assert plan.measured_error < 1
    assert plan.totals.macs[0] == 12 * 12 * (64 * 16 * 9 + 64 * 64 * 9 + 64 * 5)


def test_data_beat_weights(net):
    """On inputs that were not used."""
    mixing = torch.randn(16, 16, generator=torch.Generator().manual_seed(9)) * 0.6 ** torch.arange(16)
    data, holdout = (torch.einsum("cd,ndhw->nchw", mixing, example(32, seed)) for seed in (1, 2))
    errors = {}
    for name, options in {"weights": {"no_data": True}, "data": {"data": data}}.items():
        result = twofold.decompose(net, example_inputs=data[:1], macs=0.35, multiple=4, **options)
        with torch.no_grad():
            out, ref = result.model.module(holdout), net(holdout)
        errors[name] = float((out - ref).norm() / (ref - ref.mean()).norm())
    assert errors["data"] < 0.7 * errors["weights"]
    assert result.plan.measured_error == pytest.approx(errors["data"], rel=0.3)


def test_examples_alone_make_images_or_serve_themselves():
    colour = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3))
    asked = {"macs": 0.6, "multiple": 4, "schemes": "channel"}
    plan = twofold.decompose(colour, example_inputs=torch.randn(1, 3, 20, 20), **asked).plan
    assert plan.calibration["inputs"]["source_type"] == "synthetic"
    assert plan.calibration["batch_statistics"]
    assert not int(colour[1].num_batches_tracked)
    signal = nn.Sequential(nn.Conv1d(40, 64, 9), nn.ReLU(), nn.Conv1d(64, 64, 9))
    plan = twofold.decompose(signal, example_inputs=torch.randn(3, 40, 50), **asked).plan
    assert plan.calibration["inputs"]["count"] == 3
    assert not plan.calibration["batch_statistics"]
    assert any("example inputs alone" in note for note in plan.notes)


def test_batch_statistics_are_those_of_the_batch():
    net = nn.Sequential(nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8))
    runner = runner_of(net)
    with runner.batch_statistics():
        found = runner.run({"input": 7 * batch(8)["x"] + 3})["output"]
    np.testing.assert_allclose(found.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=(0, 2, 3)), 1, atol=1e-3)
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(batch()["x"])).numpy()
    np.testing.assert_allclose(runner.run({"input": batch()["x"]})["output"], expected, atol=1e-5)


def test_a_forward_without_gradients_is_calibrated_without(net):
    class Frozen(Net):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    runner = runner_of(Frozen())
    assert not runner.differentiable
    assert len(runner.reached(layers_of(net))) == 3


def test_half_precision_is_fed_as_such(net):
    half = net.to(torch.bfloat16)
    runner = runner_of(half, example().to(torch.bfloat16))
    assert runner.run(batch())["output"].dtype == np.float32
    plan = twofold.decompose(half, data=[example(8)], macs=0.4, multiple=4, schemes="spatial").plan
    assert plan.measured_error < 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "not a single sample"),
        (7, "data must be tensors or an iterable"),
        ([["x"]], "data must give tensors or arrays, got a str"),
        ([torch.zeros(2, 7, 9, 9)], "does not run on the inputs"),
        ([example(2), example(2)[:, 1:]], r"shape \(2, 15, 12, 12\), but the net takes"),
        ([{"image": example(2), "mask": example(2)}], "data with 'image', 'mask', but forward takes"),
    ],
)
def test_data_that_do_not_fit(net, data, message):
    with pytest.raises(InputError, match=message):
        twofold.decompose(net, data=data, macs=0.5)


class Named(nn.Module):
    """As models of transformers are: named arguments, and a loss where labels are given."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU())

    def forward(self, pixel_values=None, labels=None):
        found = self.net(pixel_values).mean(dim=(2, 3))
        return (nn.functional.cross_entropy(found, labels), found) if labels is not None else (found,)


def images(*sizes):
    return [np.random.default_rng(7).random((1, 3, *size), np.float32) for size in sizes]


@pytest.mark.parametrize(
    "item",
    [
        lambda x: {"pixel_values": x, "labels": np.array([1])},
        lambda x: {"pixel_values": torch.from_numpy(x), "label": 1, "path": "a.png"},
        lambda x: {"image": x, "label": np.array([1])},
        lambda x: ({"pixel_values": x}, np.array([1])),
    ],
    ids=["labels", "no arrays beside", "another name", "a tuple"],
)
def test_labels_beside_the_inputs_are_left_out(item):
    x = images(*[(16, 16)] * 4)
    runner, found = handed_over(Named(), [item(one) for one in x])
    assert list(found) == ["pixel_values"]
    np.testing.assert_array_equal(found["pixel_values"], np.concatenate(x))
    assert runner.outputs == ("0",)


def test_data_of_varying_sizes():
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3)).eval()
    data = images((20, 24), (16, 30), (18, 18))
    source = CalibrationSource(data=data)
    inputs = calibration_inputs(runner_for(as_model(net, torch.zeros(1, 3, 20, 24))), source)
    expected = np.concatenate([data[0][:, :, 2:18, 3:21], data[1][:, :, :, 6:24], data[2][:, :, 1:17]])
    np.testing.assert_array_equal(inputs.arrays["input"], expected)
    notes = inputs.provenance.notes
    assert any("differ in size; the middle of each is used, 3x16x18" in note for note in notes)
    assert any("costs are counted for these" in note for note in notes)
    fixed = nn.Sequential(net, nn.Flatten(), nn.Linear(32 * 16 * 20, 4))
    message = r"samples of input \(3, 16, 18\), where example inputs are .*does not run"
    with pytest.raises(InputError, match=message):
        calibration_inputs(runner_for(as_model(fixed, torch.zeros(1, 3, 20, 24))), source)


def test_arrays_as_example_inputs():
    for given in (np.zeros((1, 3, 12, 12)), (np.zeros((1, 3, 12, 12), np.float32),)):
        model = as_model(nn.Conv2d(3, 8, 3), given)
        assert runner_for(model).run({"input": np.ones((2, 3, 12, 12), np.float32)})["output"].shape[0] == 2
    named = as_model(Named(), {"pixel_values": np.zeros((1, 3, 9, 9))})
    assert named.example_inputs["pixel_values"].dtype == torch.float32
