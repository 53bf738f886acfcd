"""Engines that go wrong, each in the way that a model's file name says; see `twofold.latency.guest`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from twofold.latency.guest import Answers, Arrays, Forward


class Engine:
    """Runs ONNX Runtime, and adds to its answers what the environment says."""

    def convert(self, onnx: Path) -> None:
        print("a converter talks")
        sys.stdout.flush()
        os.write(2, b"about to read \x1b[31m the model\n")
        match os.environ.get("ENGINE"):
            case "crashes":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "ends":
                os._exit(3)
            case "raises":
                raise ValueError("two\nlines")

    def open(
        self, onnx: Path, inputs: Arrays, outputs: tuple[str, ...], threads: int
    ) -> tuple[Forward, Answers]:
        session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
        off = float(os.environ.get("OFF", "0"))

        def answers() -> Arrays:
            values = zip(outputs, session.run(None, dict(inputs)), strict=True)
            drops = os.environ.get("DROPS", "")
            return {name: (value * np.float32(1 + off)) for name, value in values if name != drops}

        return lambda: session.run(None, dict(inputs)), answers


def make_runtime():
    raise NotImplementedError
