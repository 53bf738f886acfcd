"""Fashion-MNIST, and the example's nets that were trained on it.

The data are the Debian package `dataset-fashion-mnist`, fetched once and kept in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from examples.fashion.make_data import DEBIAN, PARTS, read, write_database
from numpy.typing import NDArray

import twofold
from twofold.calibration.runner import Runner
from twofold.formats.caffe.model import CaffeModel
from zoo.packages import ROOT, DebianPackage, cached

EXAMPLE = ROOT / "examples" / "fashion"
PACKAGE = DebianPackage(
    "dataset-fashion-mnist",
    str(DEBIAN.relative_to("/")),
    tuple(f"{part}-{kind}-ubyte.gz" for part in PARTS.values() for kind in ("images-idx3", "labels-idx1")),
)
NETS = ("vgg", "resnet")
BATCH = 100


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: (N, 28, 28), 0 to 255.
        labels: (N,).
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def inputs(self) -> NDArray[np.float32]:
        """What the nets are fed, (N, 1, 28, 28)."""
        return ((self.pixels.astype(np.float32) - 73) * np.float32(0.0111))[:, None]


def fashion_mnist(part: str) -> Images:
    """All images of a part, "train" or "t10k"."""
    return Images(*read(DEBIAN if DEBIAN.is_dir() else PACKAGE.folder(), part))


def databases() -> Path:
    """The folder of the databases that the example's train_val prototxts name."""

    def build(folder: Path) -> None:
        for name, part in PARTS.items():
            images = fashion_mnist(part)
            write_database(folder / f"{name}_lmdb", images.pixels, images.labels)

    return cached("fashion-mnist-lmdb", build)


def shipped() -> Images:
    """The first 500 test images, which the example holds."""
    with np.load(EXAMPLE / "test_images.npz") as file:
        return Images(file["images"], file["labels"])


def example(name: str, kind: str = "deploy") -> CaffeModel:
    """A net of the example; `kind` is "deploy" or "train_val"."""
    return twofold.load(EXAMPLE / f"{name}_{kind}.prototxt", EXAMPLE / f"{name}.caffemodel")


def top1(net: Runner, images: Images) -> float:
    """Share of images whose class the net names, in percent."""
    inputs, (name,), (output,) = images.inputs(), net.inputs, net.outputs
    right = 0
    for start in range(0, len(inputs), BATCH):
        scores = net.run({name: inputs[start : start + BATCH]})[output]
        right += int((scores.argmax(axis=1) == images.labels[start : start + BATCH]).sum())
    return 100 * right / len(inputs)
