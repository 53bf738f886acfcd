"""OpenCV's DNN module on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np

from ...errors import ModelError
from ..stacks import Stack, caffe_bytes, caffe_rejection
from .base import Arrays, Run, Whole, as_float, cpu_name

#: What reads a form, and how many of its files.
_READERS: dict[str, tuple[Callable[..., Any], int]] = {
    "caffe": (cv2.dnn.readNetFromCaffe, 2),
    "onnx": (cv2.dnn.readNetFromONNX, 1),
}


class OpenCv:
    """The reader of Caffe's files, and of ONNX."""

    name = "opencv"
    label = "OpenCV DNN"
    block = 8
    reads = ("caffe", "onnx")
    version: str = cv2.__version__

    @property
    def device(self) -> str:
        """See `Runtime.device`."""
        return cpu_name()

    @contextmanager
    def running(self, threads: int) -> Iterator[None]:
        """See `Runtime.running`."""
        before = cv2.getNumThreads()
        cv2.setNumThreads(threads)
        try:
            yield
        finally:
            cv2.setNumThreads(before)

    def stack(self, stack: Stack, threads: int) -> Run:
        """See `Runtime.stack`."""
        rejection = caffe_rejection(stack)
        if rejection is not None:
            raise ModelError(f"OpenCV: {stack.key}: {rejection}")
        definition, weights = (np.frombuffer(part, np.uint8) for part in caffe_bytes(stack))
        return _run(lambda: cv2.dnn.readNetFromCaffe(definition, weights), {"x": stack.input()})

    def whole(self, whole: Whole, threads: int) -> Run:
        """See `Runtime.whole`."""
        read, count = _READERS[whole.form]
        paths = [str(path) for path in whole.content[:count]]
        return _run(lambda: read(*paths), as_float(whole.inputs))


def _run(read: Any, inputs: Arrays) -> Run:
    try:
        net = read()
        for name, array in inputs.items():
            net.setInput(array, name)
        outputs = net.getUnconnectedOutLayersNames()
        net.forward(outputs)
    except cv2.error as error:
        raise ModelError(f"OpenCV cannot run the model: {' '.join(str(error).split())}") from error

    def run() -> object:
        # Set anew, since OpenCV computes nothing again while its inputs stay the same.
        for name, array in inputs.items():
            net.setInput(array, name)
        return net.forward(outputs)

    return run


def make_runtime() -> OpenCv:
    """See `runtimes.runtime`."""
    return OpenCv()
