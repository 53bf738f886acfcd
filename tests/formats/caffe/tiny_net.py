"""The net of tests/data/caffe/caffemodel: how Caffe loads its weights, and its forward pass in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from twofold.errors import TwofoldError
from twofold.formats.caffe.weights import WeightsFile

FOLDER = Path(__file__).parents[2] / "data" / "caffe" / "caffemodel"

PARAMS = {
    "conv1": ((3, 1, 3, 3), (3,)),
    "conv2": ((4, 3, 3, 3), (4,)),
    "ip1": ((8, 16), (8,)),
    "ip2": ((5, 8), (5,)),
}
LAYERS = ("data", "conv1", "pool1", "conv2", "relu1", "ip1", "relu2", "ip2", "prob")


class MisfitError(TwofoldError):
    """Blobs that do not fit the net."""


def load(weights: WeightsFile) -> dict[str, list[np.ndarray]]:
    """Net::CopyTrainedLayersFrom: every entry in order, by name; fillers where the file has nothing."""
    params = {
        name: [np.full(weight, 0.1, np.float32), np.full(bias, 0.05, np.float32)]
        for name, (weight, bias) in PARAMS.items()
    }
    for layer in weights.layers:
        if layer.name not in LAYERS:
            continue
        shapes = PARAMS.get(layer.name, ())
        if len(layer.blobs) != len(shapes):
            raise MisfitError(f"{layer.name}: {len(layer.blobs)} blobs")
        for index, (blob, shape) in enumerate(zip(layer.blobs, shapes, strict=True)):
            if not blob.fits(shape):
                raise MisfitError(f"{layer.name}: {blob.shape} into {shape}")
            params[layer.name][index] = blob.array().reshape(shape)
    return params


def _conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))
    return np.einsum("cyxhw,ochw->oyx", windows, weight) + bias[:, None, None]


def forward(params: dict[str, list[np.ndarray]], image: np.ndarray) -> np.ndarray:
    """The net's output for one (1, 10, 10) image, in float64."""
    p = {name: [blob.astype(np.float64) for blob in blobs] for name, blobs in params.items()}
    x = _conv(image.astype(np.float64), *p["conv1"])
    x = x.reshape(3, 4, 2, 4, 2).max(axis=(2, 4))
    x = np.maximum(_conv(x, *p["conv2"]), 0).reshape(-1)
    x = np.maximum(p["ip1"][0] @ x + p["ip1"][1], 0)
    x = p["ip2"][0] @ x + p["ip2"][1]
    with np.errstate(invalid="ignore"):  # one file has an infinite bias, and Caffe's output is NaN
        x = np.exp(x - x.max())
        return x / x.sum()
