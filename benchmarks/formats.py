"""One network in three formats: HED as Caffe files, as an ONNX file and as a PyTorch module.

The plan and the error of the outputs should not depend on the format. Inputs are small crops, so that this
runs in three minutes on two cores.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from zoo.hed import BLOCKS, MEAN_BGR, bilinear_kernel
from zoo.models import model
from zoo.photographs import as_inputs, crops, photographs

import twofold
from twofold.backends import as_model
from twofold.calibration.runners import runner_for
from twofold.conv import ConvLayer

SIDE, COUNT, MACS = 96, 20, 0.4


class Hed(nn.Module):
    """HED as somebody would write it in PyTorch; its weights come from the Caffe model."""

    def __init__(self, weights: Mapping[str, ConvLayer]) -> None:
        super().__init__()
        channels = 3
        for block, widths in enumerate(BLOCKS, 1):
            for index, width in enumerate(widths, 1):
                self.add_module(f"conv{block}_{index}", nn.Conv2d(channels, width, 3, padding=1))
                channels = width
            self.add_module(f"score-dsn{block}", nn.Conv2d(channels, 1, 1))
        self.add_module("score-fuse", nn.Conv2d(len(BLOCKS), 1, 1))
        for name, layer in weights.items():
            own = self.get_submodule(name)
            assert layer.weight is not None
            assert layer.bias is not None
            own.weight = nn.Parameter(torch.from_numpy(np.array(layer.weight)))
            own.bias = nn.Parameter(torch.from_numpy(np.array(layer.bias)))
        for factor in (2, 4, 8, 16):
            self.register_buffer(f"bilinear{factor}", torch.from_numpy(bilinear_kernel(factor)))

    def forward(self, data: Tensor) -> Tensor:
        scores = []
        x = data
        for block, widths in enumerate(BLOCKS, 1):
            x = x if block == 1 else nn.functional.max_pool2d(x, 2)
            for index in range(1, len(widths) + 1):
                x = torch.relu(self.get_submodule(f"conv{block}_{index}")(x))
            score = self.get_submodule(f"score-dsn{block}")(x)
            if block > 1:
                factor = 2 ** (block - 1)
                kernel = self.get_buffer(f"bilinear{factor}")
                score = nn.functional.conv_transpose2d(score, kernel, stride=factor, padding=factor // 2)
            scores.append(score)
        fused: Tensor = self.get_submodule("score-fuse")(torch.cat(scores, dim=1))
        return torch.sigmoid(fused)


@dataclass(frozen=True)
class Outcome:
    """What one format gave.

    Attributes:
        ranks: (scheme, variant, ranks) of every layer that was replaced, in order.
        predicted: relative error of the outputs that the plan predicts.
        measured: the plan's own measurement.
        error: on crops of photographs that nobody looked at.
    """

    ranks: tuple[tuple[str, str, tuple[int, ...]], ...]
    predicted: float
    measured: float
    error: float


def outcomes(folder: Path, *, side: int = SIDE, count: int = COUNT, **options: Any) -> dict[str, Outcome]:
    """Decompose all three on the same crops, with the same options."""
    calibration, holdout = inputs(side, count)
    formats = three_formats(folder, side)
    return {name: _outcome(one, calibration, holdout, options) for name, one in formats.items()}


def inputs(side: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Crops to calibrate on, and crops of other photographs."""
    shots = photographs()
    pair = (
        as_inputs(crops(of, some, (side, side), seed=1), "bgr", MEAN_BGR, 1.0)
        for of, some in ((shots.calibration, count), (shots.holdout, 8))
    )
    return next(pair), next(pair)


def three_formats(folder: Path, side: int) -> dict[str, Any]:
    """HED as Caffe model, ONNX model and module with example inputs."""
    hed = model("hed")
    shape = (1, 3, side, side)
    caffe = twofold.load(hed.prototxt, hed.caffemodel, inputs={"data": shape})
    layers = [
        layer
        for layer in caffe.convolutions()
        if isinstance(layer, ConvLayer) and layer.geometry.layer_type == "convolution"
    ]
    module = Hed({layer.name: layer for layer in layers}).eval()
    path = folder / "hed.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no other package is called old
        torch.onnx.export(
            module, (torch.zeros(shape),), str(path), dynamo=False, input_names=["data"],
            dynamic_axes={"data": {0: "n"}},
        )  # fmt: skip
    example = torch.zeros(shape)
    return {"Caffe": caffe, "ONNX": twofold.load(path), "PyTorch": as_model(module, example)}


def _outcome(
    original: Any, calibration: NDArray[np.float32], holdout: NDArray[np.float32], options: Mapping[str, Any]
) -> Outcome:
    result = twofold.decompose(original, data=calibration, **options)
    runners = [runner_for(one) for one in (original, result.model)]
    ref, out = (next(iter(runner.run({"data": holdout}).values())) for runner in runners)
    plan = result.plan
    assert plan.predicted_error is not None
    assert plan.measured_error is not None
    return Outcome(
        tuple((choice.scheme, choice.variant, choice.ranks) for choice in plan.choices),
        plan.predicted_error,
        plan.measured_error,
        float(np.linalg.norm(out - ref) / np.linalg.norm(ref - ref.mean())),
    )


def main() -> int:
    """Measure and print; gives the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        found = outcomes(Path(folder), macs=MACS)
    title = f"HED, {SIDE}x{SIDE}, {MACS} of the MACs, {COUNT} crops"
    table = Table("format", "predicted error", "measured", "held-out photographs", "same plan", title=title)
    first = next(iter(found.values()))
    for name, one in found.items():
        errors = (f"{value:.5f}" for value in (one.predicted, one.measured, one.error))
        table.add_row(name, *errors, "yes" if one.ranks == first.ranks else "no")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
