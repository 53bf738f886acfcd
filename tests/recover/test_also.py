"""A training that begins with the mean of what several recoveries gave."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.small import write
from tests.test_calibrated import samples

pytest.importorskip("torch")

import twofold
from twofold.cli import main
from twofold.errors import ModelError, OptionError
from twofold.recover import RecoverOptions, recover

STILL = RecoverOptions(steps=0, batch=8)


@pytest.fixture
def made(tmp_path):
    """A network, a coarse decomposition of it, and what two recoveries made of that."""
    original = twofold.load(*write(tmp_path))
    twofold.decompose(original, macs=0.3, multiple=4, no_data=True).save(tmp_path / "out")
    smaller = twofold.load(tmp_path / "out")
    found = [
        recover(
            original, smaller, data=samples(24, seed=seed),
            options=RecoverOptions(steps=12, rate=1e-2, batch=8, seed=seed),
        ).model
        for seed in (1, 2)
    ]  # fmt: skip
    return original, smaller, *found


def blobs(model):
    return {layer.name: [blob.array() for blob in layer.blobs] for layer in model.weights.layers}


def test_it_begins_with_the_mean_of_the_weights(made):
    original, smaller, first, second = made
    data = samples(24, seed=9)
    both = recover(original, first, data=data, options=STILL, average_with=[second])
    parts = [blobs(one) for one in (first, second)]
    for name, found in blobs(both.model).items():
        for k, blob in enumerate(found):
            mean = (parts[0][name][k].astype(np.float64) + parts[1][name][k]) / 2
            np.testing.assert_allclose(blob, mean, rtol=1e-5, atol=1e-7)
    each = [recover(original, one, data=data, options=STILL).before for one in (first, second)]
    again = recover(original, both.model, data=data, options=STILL).before
    assert both.before == pytest.approx(again, rel=1e-5)
    assert both.before not in each
    three = recover(
        original, first, data=data, options=STILL, average_with=(one for one in (second, smaller))
    )
    name = next(one for one in parts[0] if not np.array_equal(parts[0][one][0], parts[1][one][0]))
    mean = sum(blobs(one)[name][0].astype(np.float64) for one in (first, second, smaller)) / 3
    np.testing.assert_allclose(blobs(three.model)[name][0], mean, rtol=1e-5, atol=1e-7)
    for one, before in zip((first, second), parts, strict=True):  # they stay as they were
        for name, arrays in blobs(one).items():
            for a, b in zip(arrays, before[name], strict=True):
                np.testing.assert_array_equal(a, b)


def test_modules_too():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(16, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 8, 3)).eval()
    x = torch.from_numpy(samples(4))
    first = twofold.decompose(net, ranks={"2": 8}, example_inputs=x, no_data=True).model.module
    second = recover(net, first, data=samples(24), options=RecoverOptions(steps=8, rate=1e-2)).model.module
    both = recover(net, first, data=samples(24), options=STILL, average_with=[second]).model.module
    for a, b, mean in zip(*(one.parameters() for one in (first, second, both)), strict=True):
        torch.testing.assert_close(mean, (a + b) / 2, rtol=1e-5, atol=1e-7)


def test_what_is_refused(made, tmp_path):
    original, smaller, first, _ = made
    other = twofold.decompose(original, macs=0.5, multiple=4, no_data=True)
    with pytest.raises(
        ModelError, match=r"the shapes of the factors differ: \(.*\) in the model, .* in number 1"
    ):
        recover(original, first, data=samples(8), options=STILL, average_with=[other])
    with pytest.raises(OptionError, match="average_with does not go with qat"):
        recover(original, first, data=samples(8), options=RecoverOptions(qat=True), average_with=[smaller])


def test_from_the_command_line(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    original, _, first, second = made
    for name, model in (("a", first), ("b", second)):
        model.save(f"{name}/net.prototxt", f"{name}/net.caffemodel")
    np.save("x.npy", samples(24, seed=9))
    argv = [
        "recover",
        "net.prototxt",
        "net.caffemodel",
        "a",
        "--average-with",
        "b",
        "-o",
        "mean",
        "--data",
        "x.npy",
    ]
    assert main([*argv, "--steps", "0", "--batch", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["samples"], told["losses"]) == (0, [])
    assert told["after"] == told["before"]
    expected = recover(original, first, data=samples(24, seed=9), options=STILL, average_with=[second])
    assert told["before"] == pytest.approx(expected.before, rel=1e-6)
    assert main([*argv, "--average-with", "nowhere", "--force"]) == 1
    assert "nowhere" in capsys.readouterr().err
