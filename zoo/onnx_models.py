"""Real networks as ONNX files, as packages ship them: where they are, and what they take and give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from zoo.packages import NUDENET, RAPIDOCR, Package

ImageSource = NDArray[np.uint8]


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX network and what is needed to run it.

    Attributes:
        name: key of the registry.
        package: that ships it.
        file: its name in the cache.
        input: name of its input.
        size: (H, W) of the input.
        mean: of the pixels, per channel, taken off before they are scaled.
        scale: by which pixels are multiplied.
        color: order of the channels.
        origin: what the net is.
    """

    name: str
    package: Package
    file: str
    input: str
    size: tuple[int, int]
    mean: float
    scale: float
    color: str
    origin: str

    @property
    def path(self) -> Path:
        """Where the file is; fetched on the first call."""
        return self.package.file(self.file)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the input for one image."""
        return (1, 3, *self.size)

    def sample(self, image: ImageSource) -> NDArray[np.float32]:
        """An RGB image as input."""
        resized = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_AREA)
        ordered = resized[..., ::-1] if self.color == "bgr" else resized
        values = (ordered.astype(np.float32) - np.float32(self.mean)) * np.float32(self.scale)
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


_FILES = (
    OnnxFile(
        "nudenet", NUDENET, "320n.onnx", "images", (320, 320), 0.0, 1 / 255, "rgb",
        "nudenet: detector of body parts, YOLOv8 nano",
    ),
    OnnxFile(
        "ocr-det", RAPIDOCR, "ch_PP-OCRv4_det_infer.onnx", "x", (320, 320), 127.5, 1 / 127.5, "bgr",
        "rapidocr-onnxruntime: where text is, PP-OCRv4; a map of probabilities",
    ),
    OnnxFile(
        "ocr-rec", RAPIDOCR, "ch_PP-OCRv4_rec_infer.onnx", "x", (48, 320), 127.5, 1 / 127.5, "bgr",
        "rapidocr-onnxruntime: what a line of text says, PP-OCRv4",
    ),
    OnnxFile(
        "ocr-cls", RAPIDOCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx", "x", (48, 192), 127.5, 1 / 127.5, "bgr",
        "rapidocr-onnxruntime: whether a line of text is upside down",
    ),
)  # fmt: skip
ONNX_FILES = {file.name: file for file in _FILES}
"""All by name; none is fetched yet."""
