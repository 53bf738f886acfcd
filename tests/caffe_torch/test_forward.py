"""Forward passes against numbers that the real Caffe gave (tests/data/caffe/forward)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from twofold.caffe_torch import CaffeNet
from twofold.formats.caffe.caffemodel import read_weights
from twofold.formats.caffe.net import read_net
from twofold.formats.caffe.prototxt import parse

CASES = sorted((Path(__file__).parents[1] / "data/caffe/forward").iterdir())


def load(case: Path) -> tuple[dict, CaffeNet, dict[str, torch.Tensor]]:
    about = json.loads((case / "case.json").read_text())
    definition = read_net(parse((case / "net.prototxt").read_bytes()), about["phase"])
    weights = None
    if about["weights"]:
        file = read_weights(case / "weights.caffemodel")
        weights = {layer.name: [blob.array() for blob in layer.blobs] for layer in file.layers}
    with np.load(case / "input.npz") as arrays:
        inputs = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return about, CaffeNet(definition, weights), inputs


def compare(got: torch.Tensor, want: np.ndarray, tol: float) -> None:
    values = got.detach().numpy()
    assert values.shape == want.shape
    scale = np.abs(want[np.abs(want) < 1e30]).max(initial=1e-6)  # a few cases hold values near FLT_MAX
    np.testing.assert_allclose(values, want, rtol=tol, atol=tol * scale, equal_nan=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_numbers_as_caffe(case: Path) -> None:
    for dtype in (torch.float32, torch.float64):
        same_numbers(case, dtype)


def same_numbers(case: Path, dtype: torch.dtype) -> None:
    about, net, inputs = load(case)
    net.to(dtype)
    inputs = {name: value.to(dtype) for name, value in inputs.items()}
    before = {name: value.clone() for name, value in inputs.items()}
    with np.load(case / "output.npz") as want:
        got = net(inputs, blobs=want.files)
        for name in want.files:
            compare(got[name], want[name], about.get("tol", 1e-5))
    if about.get("params_after"):
        with np.load(case / "params_after.npz") as after:
            for key in after.files:
                layer, index = key.rsplit("/", 1)
                compare(net.layers[layer].blobs[int(index)], after[key], 1e-5)
    # The outputs are the blobs that nothing reads.
    assert set(net(inputs)) == set(net.outputs) == set(about["outputs"]) != set()
    assert all(torch.equal(inputs[name], value) for name, value in before.items()), "an input was changed"
