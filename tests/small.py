"""Small Caffe models on disk, with random weights, and what OpenCV computes with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from twofold.conv import ConvLayer
from twofold.formats.caffe.caffemodel import NewLayer, create_weights
from twofold.formats.caffe.model import CaffeModel
from twofold.formats.caffe.net import read_layers
from twofold.formats.caffe.prototxt import parse

HEAD = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 16 dim: 12 dim: 12 } } }
"""
CONV = """layer {
  name: "NAME"
  type: "Convolution"
  bottom: "BOTTOM"
  top: "NAME"
  convolution_param {
    num_output: 64
    kernel_size: 3
    pad: 1
  }
}
"""
TAIL = """layer { name: "relu" type: "ReLU" bottom: "two" top: "two" }
layer { name: "out" type: "Convolution" bottom: "two" top: "out"
  convolution_param { num_output: 5 kernel_size: 1 } }
"""


def conv(name: str, bottom: str) -> str:
    """The text of a 3x3 convolution with 64 outputs."""
    return CONV.replace("NAME", name).replace("BOTTOM", bottom)


#: Two convolutions that can be decomposed, `one` and `two`, and a 1x1, `out`.
NET = HEAD + conv("one", "data") + conv("two", "one") + TAIL
TRAIN_VAL = """name: "small"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  data_param { source: "train" batch_size: 32 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  data_param { source: "val" batch_size: 8 } }
""" + NET.removeprefix(HEAD)


def random_blobs(text: str, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Weights for every convolution of a net, by layer name; every one has singular values that fall."""
    document = parse(text.encode("utf-8", "surrogateescape"))
    biased = {
        spec.name: spec.fields.message("convolution_param").flag("bias_term")
        for spec in read_layers(document)
    }
    rng = np.random.default_rng(seed)
    blobs: dict[str, list[np.ndarray]] = {}
    for layer in CaffeModel(document).convolutions():
        if layer.geometry is None or layer.geometry.layer_type != "convolution":
            continue
        shape = layer.geometry.weight_shape
        columns = rng.normal(size=(*shape[:2], shape[2], 1)) * rng.normal(size=(1, *shape[1:3], shape[3]))
        weight = columns + 0.3 * rng.normal(size=shape)
        for name in (layer.name, *(layer.sharers if isinstance(layer, ConvLayer) else ())):
            blobs[name] = [(weight / np.sqrt(np.prod(shape[1:]))).astype(np.float32)]
            if biased[name]:
                blobs[name].append(rng.normal(size=shape[0]).astype(np.float32))
    return blobs


def write_weights(path: Path, blobs: Mapping[str, list[np.ndarray]]) -> Path:
    """Write a caffemodel."""
    with path.open("wb") as stream:
        create_weights([NewLayer(name, "Convolution", tuple(b)) for name, b in blobs.items()]).write(stream)
    return path


def write(folder: Path, text: str = NET, blobs: Mapping[str, list[np.ndarray]] | None = None) -> list[str]:
    """Write net.prototxt and net.caffemodel into a folder; gives their paths."""
    (folder / "net.prototxt").write_bytes(text.encode("utf-8", "surrogateescape"))
    write_weights(folder / "net.caffemodel", random_blobs(text) if blobs is None else blobs)
    return [str(folder / "net.prototxt"), str(folder / "net.caffemodel")]


def opencv(prototxt: str | Path, caffemodel: str | Path, x: np.ndarray, *layers: str) -> list[np.ndarray]:
    """Outputs of layers (the last one if none is named)."""
    import cv2  # what needs no oracle runs without

    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(caffemodel))
    net.enableFusion(False)
    net.setInput(x)
    return list(net.forward(list(layers))) if layers else [net.forward()]


def image(*shape: int) -> np.ndarray:
    """A seeded input."""
    return np.random.default_rng(9).normal(size=shape or (1, 16, 12, 12)).astype(np.float32)


def assert_close(got: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-4) -> None:
    """Compare in units of the range of the wanted values."""
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.ptp(wanted))
