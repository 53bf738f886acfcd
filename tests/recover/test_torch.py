"""The original module teaches the decomposed one; what PyTorch's own forward gives decides."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from tests.small import write
from tests.test_calibrated import samples

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import twofold  # noqa: E402
from twofold.calibration.source import CalibrationSource  # noqa: E402
from twofold.errors import ModelError  # noqa: E402
from twofold.formats.torch.model import TorchModel  # noqa: E402
from twofold.recover import RecoverOptions, recover  # noqa: E402

OPTIONS = RecoverOptions(steps=60, rate=1e-2, batch=8)


class Net(nn.Module):
    """Convolutions of which two share a weight, a normalisation, dropout, and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(16, 64, 3, padding=1)
        self.norm = nn.BatchNorm2d(64)
        self.two = nn.Conv2d(64, 64, 3, padding=1)
        self.again = nn.Conv2d(64, 64, 3, padding=1)
        self.again.weight = self.two.weight
        self.drop = nn.Dropout(0.5)
        self.out = nn.Conv2d(64, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.one(x)))
        x = torch.relu_(self.two(x))
        return torch.softmax(self.out(self.drop(self.again(x))), 1)


class Forbidding(Net):
    """Nobody gets gradients of it."""

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


def made(kind: type[Net] = Net) -> Net:
    """A net whose weights have singular values that fall, and whose normalisation has seen inputs."""
    torch.manual_seed(0)
    net = kind()
    with torch.no_grad():
        for conv in (net.one, net.two):
            flat = conv.weight.permute(1, 2, 0, 3).reshape(conv.in_channels * 3, -1)
            u, s, v = torch.linalg.svd(flat, full_matrices=False)
            scaled = (u * s * 0.97 ** torch.arange(len(s))) @ v
            conv.weight.copy_(scaled.reshape(conv.in_channels, 3, 64, 3).permute(2, 0, 1, 3) * 2)
    Net.forward(net.train(), torch.from_numpy(samples(32, seed=8)))
    return net


@pytest.fixture(scope="module")
def pair():
    """A module in training mode, and a coarse decomposition of it."""
    net = made()
    x = torch.from_numpy(samples(1))
    result = twofold.decompose(net, macs=0.25, multiple=4, no_data=True, example_inputs=x)
    assert {"one", "two"} <= set(result.model.replaced)
    return net, result


def logits_error(net, other):
    """Relative error of what stands before the softmax, on inputs that nobody was trained on."""
    x = torch.from_numpy(samples(6, seed=11))
    with torch.no_grad():
        # Up to a number per position, which a softmax does not see: the mean over the classes.
        a, b = (copy.deepcopy(one).eval()(x).log() for one in (net, other))
        a, b = (one - one.mean(1, keepdim=True) for one in (a, b))
        return float((b - a).norm() / (a - a.mean()).norm())


def test_the_error_falls_and_only_the_factors_change(pair):
    net, result = pair
    source = CalibrationSource(data=samples(64, seed=3))
    state = {name: value.clone() for name, value in result.model.module.state_dict().items()}
    found = recover(result.original, result.model, source, OPTIONS)
    assert found.after < 0.6 * found.before
    assert isinstance(found.model, TorchModel)
    new = found.model.module
    assert logits_error(net, new) < 0.7 * logits_error(net, result.model.module)
    # The given module stays as it is, and what comes out is like it.
    for name, value in result.model.module.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert new.training == result.model.module.training
    assert new.two[0].weight is new.again[0].weight
    assert all(parameter.requires_grad for parameter in new.parameters())
    for name, value in new.state_dict().items():
        factor = name.split(".")[0] in ("one", "two", "again") and name.count(".") == 2
        assert torch.equal(value, state[name]) != factor, name


def test_modules_themselves_and_a_loader(pair):
    net, result = pair
    x, labels = torch.from_numpy(samples(32, seed=3)), torch.zeros(32)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=8)
    options = RecoverOptions(steps=6, rate=1e-2, batch=8)
    found = recover(net, result.model.module, CalibrationSource(data=loader), options)
    same = recover(result.original, result.model, CalibrationSource(data=x.numpy()), options)
    assert found.curve == same.curve


def test_the_file_that_is_written(pair, tmp_path):
    _, result = pair
    options = RecoverOptions(steps=4, rate=1e-2, batch=8)
    found = recover(result.original, result.model, CalibrationSource(data=samples(16)), options)
    (path,) = found.model.save_to(tmp_path, force=False, extra={}, check=lambda written: None)
    module = copy.deepcopy(result.model.module)
    module.load_state_dict(torch.load(path, weights_only=True))
    for name, value in module.state_dict().items():
        assert torch.equal(value, found.model.module.state_dict()[name]), name


def test_what_does_not_help_is_not_kept(pair):
    _, result = pair
    wild = RecoverOptions(steps=8, rate=10.0, batch=4)
    found = recover(result.original, result.model, CalibrationSource(data=samples(16)), wild)
    assert found.after == found.before
    for name, value in found.model.module.state_dict().items():
        assert torch.equal(value, result.model.module.state_dict()[name]), name


def test_what_is_refused(pair, tmp_path):
    net, result = pair
    source = CalibrationSource(data=samples(16))
    with pytest.raises(ModelError, match="nothing to train"):
        recover(net, net, source)
    forbidding = made(Forbidding)
    smaller = twofold.decompose(forbidding, macs=0.3, multiple=4, data=samples(4))
    with pytest.raises(ModelError, match="Forbidding gives no gradients"):
        recover(forbidding, smaller.model.module, source)
    with pytest.raises(ModelError, match=r"one\.0\.weight is torch\.float16, too coarse"):
        recover(net, copy.deepcopy(result.model.module).half(), source)
    with pytest.raises(ModelError, match="models of one format are needed, got PyTorch and Caffe"):
        recover(net, twofold.load(*write(tmp_path)), source)
    other = nn.Sequential(nn.Conv2d(16, 5, 3))
    with pytest.raises(ModelError, match="not made of the first: forward returns no 'output before softmax'"):
        recover(net, other, source)
    assert np.isfinite(source.data).all()
