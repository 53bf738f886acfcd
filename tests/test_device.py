"""The way over a device, on the one that every machine has: PyTorch's CPU in the place of a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from tests.lowrank.cases import CASES, make_layer, make_statistics
from tests.small import write
from tests.test_calibrated import samples

import twofold
from twofold import device
from twofold.calibration.statistics import FactorAccumulator, StatisticsAccumulator, StatisticsOptions
from twofold.cli import main
from twofold.conv import ConvGeometry
from twofold.decomposition.dry_run import dry_run
from twofold.errors import OptionError, UsageError
from twofold.lowrank import SCHEMES, FitOptions, composed
from twofold.lowrank.subspace import _filtered_there, filtered

torch = pytest.importorskip("torch")

from twofold.calibration.runners.torch import TorchRunner  # noqa: E402 - an extra

FIRST = ConvGeometry.of(10, 6, (3, 3), pad=1)


@pytest.fixture
def brought(monkeypatch):
    """Everything is worth the way to a device, which is PyTorch's CPU; counts what is brought there."""
    count = []
    brings = device.Accelerator.tensor

    def tensor(self, A):
        count.append(A.shape)
        return brings(self, A)

    monkeypatch.setattr(device.Accelerator, "tensor", tensor)
    monkeypatch.setattr(device, "_WORTH", 0)
    monkeypatch.setattr(device, "_HELD", 0)
    monkeypatch.setattr(device, "_gpu", lambda name: torch.device("cpu"))
    return count


@pytest.mark.parametrize(
    ("name", "variant"),
    dict.fromkeys((name, variant) for name, variant, geometry in CASES if geometry == FIRST),
)
def test_fits_are_the_same(name, variant, brought):
    layer = make_layer(FIRST)
    for statistics in (None, make_statistics(FIRST)):
        ranks = tuple(max(1, rank // 2) for rank in SCHEMES[name].full_rank(FIRST, variant))

        def fit(statistics=statistics, ranks=ranks):
            found = SCHEMES[name].factorize(layer, variant, statistics, options=FitOptions(refine=1))
            return found.energy_error(ranks), composed(found.factors(ranks))

        error, weight = fit()
        assert not brought
        with device.computing_on("cuda"):
            there, weight_there = fit()
        assert brought
        brought.clear()
        # Searches of `depthwise` end where rounding takes them, all as good.
        searched = name == "depthwise"
        assert there == pytest.approx(error, rel=1e-2 if searched else 1e-6)
        if not searched:
            np.testing.assert_allclose(weight_there, weight, atol=1e-6 * np.abs(weight).max())


def test_large_weights_are_fitted_by_either_way(brought):
    geometry = ConvGeometry.of(64, 48, (3, 3), pad=1)
    layer = make_layer(geometry, dtype=np.float32)
    for options in (FitOptions(exact_side=8, block_side=8), FitOptions(exact_side=8)):

        def fit(options=options):
            return SCHEMES["spatial"].factorize(layer, "hw", None, options=options, max_ranks=(24,))

        here = fit().energy_error((24,))
        with device.computing_on("cuda"):
            there = fit().energy_error((24,))
        assert brought
        brought.clear()
        assert there == pytest.approx(here, rel=1e-3)


def test_a_block_is_filtered_the_same(brought):
    rng = np.random.default_rng(0)
    A, X = (rng.standard_normal((30, n)).astype(np.float32) for n in (40, 5))
    G = A @ A.T
    with device.computing_on("cuda"):
        there = _filtered_there(device.Held(G), X, 20.0, 4)
    assert brought.count(G.shape) == 1  # for all steps
    wanted = filtered(G, X.copy(), 20.0, 4)
    np.testing.assert_allclose(there, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("memory", [None, 0])
def test_moments_are_the_same(memory, brought):
    options = StatisticsOptions(memory, positions=50)
    x = np.random.default_rng(0).normal(size=(3, 6, 9, 8)).astype(np.float32)
    layer = make_layer(FIRST)
    pair = SCHEMES["spatial"].factorize(layer, "hw").factors((2,))

    def moments():
        found = []
        for one in (StatisticsAccumulator(FIRST, options), FactorAccumulator(layer, pair, options)):
            one.update(x)
            found.append(one.result())
        first, second = found
        return [first.mean, *first.strips, second.covariance, second.remainder, second.remainder_energy]

    before = moments()
    with device.computing_on("cuda"):
        after = moments()
    assert brought
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def caffe(folder):
    return twofold.load(*write(folder)), samples(12)


def onnx(folder):
    pytest.importorskip("onnxruntime")
    twofold.export(twofold.load(*write(folder)), folder / "net.onnx")
    return twofold.load(folder / "net.onnx"), samples(12)


def module(_):
    torch.manual_seed(0)
    made = torch.nn.Sequential(
        torch.nn.Conv2d(16, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(64, 5, 3)
    )
    return made.eval(), samples(12)


@pytest.mark.slow
@pytest.mark.parametrize("make", [caffe, onnx, module])
def test_a_decomposition_is_the_same(make, tmp_path, brought):
    model, data = make(tmp_path)
    options = {"data": data, "macs": 0.2, "multiple": 4, "schemes": ("spatial", "channel"), "cache": False}
    here = twofold.decompose(model, **options)
    assert not brought
    there = twofold.decompose(model, device="cuda", **options)
    assert brought
    decided = [
        [(one.layer, one.scheme, one.variant, one.ranks) for one in result.plan.choices]
        for result in (here, there)
    ]
    assert decided[0] == decided[1]
    assert there.plan.measured_error == pytest.approx(here.plan.measured_error, rel=1e-3)
    assert device.current_device() is None  # it ends with the call
    outputs = twofold.compare(here, there, data=data, runtimes=(), device="cuda").outputs
    assert max(one.error for one in outputs) < 1e-3


def test_rounding_to_int8_is_the_same(tmp_path, brought):
    pytest.importorskip("onnxruntime")
    model, data = caffe(tmp_path)
    twofold.quantize(model, tmp_path / "here.onnx", data=data)
    twofold.quantize(model, tmp_path / "there.onnx", data=data, device="cuda")
    assert brought
    forms = [twofold.load(tmp_path / f"{name}.onnx") for name in ("here", "there")]
    errors = [
        max(one.error for one in twofold.compare(model, form, data=data, runtimes=()).outputs)
        for form in forms
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


def test_no_such_device(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    model = twofold.load("net.prototxt", "net.caffemodel")
    with pytest.raises(OptionError, match="device cuda:77 is not there: PyTorch finds"):
        twofold.decompose(model, macs=0.5, no_data=True, device="cuda:77")
    with pytest.raises(UsageError, match="'gpu' is unknown"):
        dry_run(model, macs=0.5, device="gpu")
    with pytest.raises(OptionError, match="'meta' is not one of them: cpu, cuda"):
        twofold.compare(model, model, device="meta")
    argv = ["decompose", "net.prototxt", "net.caffemodel", "-o", "out", "--no-data", "--device"]
    assert main([*argv, "cuda:77"]) == 1
    assert "device cuda:77 is not there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*argv, "cpu"]) == 0


def test_too_little_memory_is_told():
    with (
        pytest.raises(OptionError, match=r"device: cuda:1 has too little memory: .*; choose cpu"),
        device._memory_told("cuda:1"),
    ):
        raise torch.cuda.OutOfMemoryError("tried to allocate 20 GiB")


def precision():
    switches, name, _ = device._switches()
    return [getattr(one, name) for one in switches]


class Full(torch.nn.Module):
    """A convolution on a device that is full."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(16, 64, 3)

    def forward(self, x):
        if len(x) > 1:
            raise torch.cuda.OutOfMemoryError("tried to allocate 20 GiB")
        return self.conv(x)


def test_a_full_device_is_told_through_whatever_runs_the_network(brought):
    options = {"data": samples(12), "example_inputs": torch.zeros(1, 16, 12, 12), "macs": 0.5, "cache": False}
    with pytest.raises(OptionError, match="device: cpu has too little memory: tried to allocate 20 GiB"):
        twofold.decompose(Full().eval(), device="cuda", **options)


class Reader(torch.nn.Module):
    """Convolutions, and an LSTM over the columns that they give; notes whether cuDNN was on."""

    def __init__(self):
        super().__init__()
        self.conv, self.lstm = torch.nn.Conv2d(16, 64, 3, padding=1), torch.nn.LSTM(64, 8)
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x):
        self.seen.append((torch.is_grad_enabled(), torch.backends.cudnn.enabled))
        return self.lstm(self.conv(x).mean(2).permute(2, 0, 1))[0].permute(1, 0, 2)


def test_gradients_go_through_an_lstm_without_cudnn():
    """In evaluation it has none of them."""
    reader = Reader().eval()
    runner = TorchRunner(reader, torch.zeros(2, 16, 12, 12))
    runner.run({"x": samples(2)})
    assert set(runner.module.seen) >= {(True, False), (False, True)}
    assert (True, True) not in runner.module.seen
    assert runner.differentiable


def test_float32_is_exact_but_for_what_is_timed(brought):
    before = precision()
    with device.computing_on("cuda"):
        assert set(precision()) == {device._switches()[2]}
        with device.as_deployed():
            assert precision() == before
        assert precision() != before
    assert precision() == before
    with device.as_deployed():
        assert precision() == before


def test_types_are_mixed_as_numpy_does(brought):
    A, B = np.eye(3, dtype=np.float32), np.arange(9.0).reshape(3, 3)[::-1]
    with device.computing_on("cuda"):
        for found in (device.product(A, B), device.Held(A) @ B):
            assert found.dtype == np.float64
            np.testing.assert_array_equal(found, B)


def test_layers_of_long_patches_are_fitted_the_same(brought):
    """In float32, with the covariance that is held."""
    geometry = ConvGeometry.of(24, 60, (3, 3), pad=1)
    layer, statistics = make_layer(geometry), make_statistics(geometry)

    def fit():
        found = SCHEMES["depthwise"].factorize(layer, "", statistics, max_ranks=(40,))
        return found.energy_error((20,))

    here = fit()
    with device.computing_on("cuda"):
        assert fit() == pytest.approx(here, rel=2e-2)
    assert brought


def test_shapes_are_where_values_are():
    """On another device than the CPU that every machine has: one without values."""
    pytest.importorskip("onnx")
    from onnx import helper

    from twofold.onnx_torch.registry import Node, build

    for operator in ("Shape", "Size"):
        operation = build(Node.of(helper.make_node(operator, ["x"], ["y"]), 17))
        assert operation(torch.zeros(2, 3, device="meta")).device.type == "meta", operator


def test_a_singular_matrix_is_no_other_error(brought):
    with device.computing_on("cuda"):
        there = device.accelerator(1)
        with pytest.raises(np.linalg.LinAlgError):
            there.cholesky(np.zeros((3, 3)))
        with pytest.raises(np.linalg.LinAlgError):
            there.eigh(np.full((3, 3), np.nan))
