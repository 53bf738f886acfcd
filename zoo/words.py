"""Text that is drawn, so that its labels are free: words on photographs, and captchas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from zoo.photographs import ImageSource, crops

Gray = NDArray[np.uint8]

_TEXT = """
ability across anchor answer autumn basket beyond bridge button camera canvas carbon castle centre copper
corner cotton degree dinner effect engine export fabric factor figure filter forest garden global ground
harbor header island jacket kernel ladder letter linear margin market matrix method mirror museum nature
number object office orange output packet pencil people planet pocket quartz record region ribbon school
second shadow signal silver spring square statue street summer target temple ticket timber travel valley
vector vision volume window winter yellow zenith open exit taxi cafe hotel bank shop bus stop sale new
"""
VOCABULARY = tuple(_TEXT.split())
#: Height of the font of words in pixels, and how many of them an image shows.
HEIGHTS, COUNTS = (13, 42), (4, 9)
#: Least difference between a word and what is behind it, in levels of luminance.
CONTRAST = 45
_HERSHEY = (
    cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX,
)  # fmt: skip
#: Of captchas: size, characters that are not taken for each other, how many, and the largest turn in degrees.
CAPTCHA, ALPHABET, LENGTH, TURN = (64, 160), "abcdefhkmnprtuvwxy2345678", 4, 25.0


@dataclass(frozen=True)
class Page:
    """A photograph with words on it.

    Attributes:
        image: (H, W, 3), RGB.
        boxes: (N, 4), xmin, ymin, xmax, ymax of every word in pixels; the upper ends are outside.
    """

    image: ImageSource
    boxes: NDArray[np.float64]


@dataclass(frozen=True)
class Captcha:
    """A picture of a few characters, and what they are."""

    image: Gray
    text: str


def pages(images: Mapping[str, ImageSource], count: int, side: int, seed: int) -> list[Page]:
    """Words on crops (side, side) of photographs; equal seeds give equal pages."""
    rng = np.random.default_rng(seed)
    return [_page(cut, rng) for cut in crops(images, count, (side, side), seed)]


def _page(background: ImageSource, rng: np.random.Generator) -> Page:
    image = background.astype(np.float32)
    taken = np.zeros(image.shape[:2], bool)
    boxes = []
    for _ in range(rng.integers(*COUNTS)):
        height = round(float(np.exp(rng.uniform(*np.log(HEIGHTS)))))
        word = str(rng.choice(VOCABULARY))
        word = (word, word.capitalize(), word.upper())[rng.integers(3)]
        mask = _mask(word, height, rng)
        place = _free(taken, mask.shape, height, rng)
        if place is None:
            continue
        (top, left), (rows, columns) = place, mask.shape
        under = image[top : top + rows, left : left + columns]
        alpha = mask[..., None].astype(np.float32) / 255
        under += alpha * (_color(under, rng) - under)
        boxes.append((left, top, left + columns, top + rows))
        taken[top : top + rows, left : left + columns] = True
    return Page(image.round().astype(np.uint8), np.array(boxes, float).reshape(-1, 4))


def _mask(text: str, height: int, rng: np.random.Generator) -> Gray:
    """How much a word covers each pixel of its own box, 0 to 255."""
    canvas = np.zeros((3 * height, (len(text) + 2) * 2 * height), np.uint8)
    if rng.random() < 0.5:
        font = int(rng.choice(_HERSHEY))
        scale = cv2.getFontScaleFromHeight(font, round(0.72 * height))
        thickness = max(1, round(height * rng.uniform(0.06, 0.13)))
        cv2.putText(canvas, text, (height, 2 * height), font, scale, 255, thickness, cv2.LINE_AA)
    else:
        drawn = Image.fromarray(canvas)
        ImageDraw.Draw(drawn).text((height, height), text, 255, ImageFont.load_default(height))
        canvas = np.asarray(drawn)
    left, top, columns, rows = cv2.boundingRect((canvas > 127).astype(np.uint8))
    return canvas[top : top + rows, left : left + columns]


def _free(
    taken: NDArray[np.bool_], shape: tuple[int, ...], margin: int, rng: np.random.Generator
) -> tuple[int, int] | None:
    """A place for a box whose surroundings are free; None if none is found."""
    room = np.subtract(taken.shape, shape) - 2
    if (room <= 2).any():
        return None
    for _ in range(50):
        top, left = (int(rng.integers(2, most)) for most in room)
        around = taken[
            max(top - margin, 0) : top + shape[0] + margin, max(left - margin, 0) : left + shape[1] + margin
        ]
        if not around.any():
            return top, left
    return None


def _color(under: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A colour that can be told from what lies below."""
    weights = np.array([0.299, 0.587, 0.114])
    behind = float((under.mean((0, 1)) * weights).sum())
    while True:
        color = rng.uniform(0, 255, 3)
        if abs(float(color @ weights) - behind) >= CONTRAST:
            return color.astype(np.float32)


def captchas(count: int, seed: int) -> list[Captcha]:
    """Characters that are turned, bent, crossed by lines and sprinkled; equal seeds give equal ones."""
    rng = np.random.default_rng(seed)
    return [_captcha("".join(rng.choice(list(ALPHABET), LENGTH)), rng) for _ in range(count)]


def _captcha(text: str, rng: np.random.Generator) -> Captcha:
    height, width = CAPTCHA
    ink = np.zeros(CAPTCHA, np.float32)
    step = (width - 24) / len(text)
    for at, character in enumerate(text):
        mask = _turned(_mask(character, int(rng.integers(38, 50)), rng), float(rng.uniform(-TURN, TURN)))
        rows, columns = mask.shape
        top = int(np.clip((height - rows) / 2 + rng.uniform(-5, 5), 0, max(0, height - rows)))
        left = int(np.clip(12 + (at + 0.5) * step - columns / 2 + rng.uniform(-3, 3), 0, width - columns))
        part = ink[top : top + rows, left : left + columns]
        np.maximum(part, mask[: part.shape[0]].astype(np.float32) / 255, out=part)
    ink = np.maximum(_bent(ink, rng), 0.8 * _lines(rng))
    paper, dark = rng.uniform(190, 255), rng.uniform(10, 110)
    gray = paper + ink * (dark - paper) + rng.normal(0, rng.uniform(4, 14), CAPTCHA)
    gray[rng.random(CAPTCHA) < 0.02] = dark
    return Captcha(np.clip(gray, 0, 255).astype(np.uint8), text)


def _turned(mask: Gray, degrees: float) -> Gray:
    return np.asarray(Image.fromarray(mask).rotate(degrees, Image.Resampling.BICUBIC, expand=True))


def _bent(ink: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Rows and columns shifted along two waves."""
    height, width = ink.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [rng.uniform(1, 3) * np.sin(along / rng.uniform(8, 20) + rng.uniform(0, 6)) for along in (x, y)]
    places = (x + waves[1]).astype(np.float32), (y + waves[0]).astype(np.float32)
    return cv2.remap(ink, *places, cv2.INTER_LINEAR).astype(np.float32)


def _lines(rng: np.random.Generator) -> NDArray[np.float32]:
    """A few curves from side to side."""
    height, width = CAPTCHA
    canvas = np.zeros(CAPTCHA, np.uint8)
    for curve in _curves(rng, height, width):
        cv2.polylines(canvas, [curve], isClosed=False, color=255, thickness=1, lineType=cv2.LINE_AA)
    return canvas.astype(np.float32) / np.float32(255)


def _curves(rng: np.random.Generator, height: int, width: int) -> Iterator[NDArray[np.int32]]:
    x = np.arange(0, width, 4)
    for _ in range(rng.integers(2, 5)):
        wave = rng.uniform(3, 14) * np.sin(x / rng.uniform(10, 40) + rng.uniform(0, 6))
        yield np.stack([x, rng.uniform(0.25, 0.75) * height + wave], axis=1).astype(np.int32)
