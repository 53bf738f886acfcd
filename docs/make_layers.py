"""Writes docs/layers.md: what becomes of each kind of layer in each format.

Nothing is listed by hand but the kinds: a small model is made for every format and kind, and the format and
the schemes that are registered are asked what they do with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import twofold
from twofold.conv import ConvLayer, Skipped
from twofold.formats.base import Model
from twofold.formats.modules import as_model
from twofold.lowrank.schemes import SCHEMES, scheme

PAGE = Path(__file__).with_name("layers.md")
C = 32

#: Kind -> axes, and what differs from a convolution of 32 to 32 channels with a 3 x 3 kernel and pads of 1.
CONVOLUTIONS: dict[str, tuple[int, dict[str, int]]] = {
    "convolution over two axes": (2, {}),
    "over one axis": (1, {}),
    "over three axes": (3, {}),
    "with a stride": (2, {"stride": 2}),
    "dilated": (2, {"dilation": 2}),
    "in groups": (2, {"groups": 4}),
    "depthwise": (2, {"groups": C}),
    "1x1": (2, {"kernel": 1, "pad": 0}),
}
TRANSPOSED = "transposed convolution"
UPSAMPLING = "transposed, depthwise (upsampling)"
FULLY_CONNECTED = "fully connected"
KINDS = (*CONVOLUTIONS, TRANSPOSED, UPSAMPLING, FULLY_CONNECTED)

Build = Callable[[str, Path], Model]


def caffe(kind: str, folder: Path) -> Model:
    """A Caffe definition with one layer; weights are not needed to say what can be done."""
    axes, options = CONVOLUTIONS.get(kind, (2, {"groups": C} if kind == UPSAMPLING else {}))
    dims = " ".join(f"dim: {size}" for size in (1, C, *[8] * axes))
    fields = {"kernel": "kernel_size", "groups": "group", **{n: n for n in ("stride", "pad", "dilation")}}
    given = {"kernel": 3, "pad": 1, **options}
    numbers = " ".join(f"{fields[name]}: {value}" for name, value in given.items())
    type_, param = (
        ("Deconvolution" if kind in (TRANSPOSED, UPSAMPLING) else "Convolution"),
        "convolution_param",
    )
    if kind == FULLY_CONNECTED:
        type_, param, numbers = "InnerProduct", "inner_product_param", ""
    path = folder / "net.prototxt"
    path.write_text(
        f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'
        f'layer {{ name: "layer" type: "{type_}" bottom: "data" top: "layer" '
        f"{param} {{ num_output: {C} {numbers} }} }}\n"
    )
    return twofold.load(path)


def onnx_file(kind: str, folder: Path) -> Model:
    """An ONNX file with one node."""
    axes, options = CONVOLUTIONS.get(kind, (2, {"groups": C} if kind == UPSAMPLING else {}))
    side, pad, groups = options.get("kernel", 3), options.get("pad", 1), options.get("groups", 1)
    attributes: dict[str, Any] = {"pads": [pad] * 2 * axes, "group": groups}
    attributes |= {
        "strides": [options.get("stride", 1)] * axes,
        "dilations": [options.get("dilation", 1)] * axes,
    }
    weight, type_ = np.ones((C, C // groups, *[side] * axes), np.float32), "Conv"
    size: list[int] = [1, C, *[8] * axes]
    if kind in (TRANSPOSED, UPSAMPLING):
        type_ = "ConvTranspose"
    if kind == FULLY_CONNECTED:
        type_, weight, attributes, size = "Gemm", np.ones((C, C), np.float32), {}, [1, C]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(type_, ["x", "w"], ["y"], "layer", **attributes)], "g",
        [value("x", TensorProto.FLOAT, size)], [value("y", TensorProto.FLOAT, [None] * len(size))],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), folder / "net.onnx")
    return twofold.load(folder / "net.onnx")


def module(kind: str, _: Path) -> Model:
    """A module that is one layer."""
    axes, options = CONVOLUTIONS.get(kind, (2, {"groups": C} if kind == UPSAMPLING else {}))
    if kind == FULLY_CONNECTED:
        layer: nn.Module = nn.Linear(C, C)
    elif kind in (TRANSPOSED, UPSAMPLING):
        layer = nn.ConvTranspose2d(C, C, 3, padding=1, groups=options.get("groups", 1))
    else:
        make = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
        given = {"kernel": 3, "pad": 1, **options}
        layer = make(
            C, C, given["kernel"], given.get("stride", 1), given["pad"], given.get("dilation", 1),
            given.get("groups", 1),
        )  # fmt: skip
    model: Model = as_model(nn.Sequential(layer))
    return model


#: By the name of the format; those that `load` opens, and modules.
BUILDERS: dict[str, Build] = {"caffe": caffe, "onnx": onnx_file, "PyTorch": module}


def answer(layers: Iterable[ConvLayer | Skipped]) -> str:
    """What becomes of the only layer of a model, in words."""
    (layer, *_) = [*layers, None]
    if layer is None:
        return "stays: no convolution"
    if isinstance(layer, Skipped):
        return f"stays: {layer.reason}"
    refusals = {name: scheme(name).refusal(layer.geometry) for name in SCHEMES}
    taking = [name for name, reason in refusals.items() if reason is None]
    if taking:
        return ", ".join(taking)
    return "stays: " + "; ".join(dict.fromkeys(str(reason) for reason in refusals.values()))


HEAD = """\
# What becomes of each kind of layer

For each format and kind the schemes that take it, or why it stays as it is. `make docs` writes this page; it
asks the formats and the schemes themselves.

"""
TAIL = """

Fully connected is InnerProduct in Caffe, Gemm and MatMul in ONNX, nn.Linear in
PyTorch. Like a 1x1 convolution it is taken by the scheme `channel` only, which competes by default where
there are calibration inputs.

Whatever the kind, a layer stays where its weight is computed, quantized or an input of the graph, where it is
shared with something else than layers of the same shape, and where no rank makes it cheaper. `twofold
inspect` says so for every layer of a model.
"""


def page() -> str:
    """The text of the page."""
    rows = [["kind", *BUILDERS], ["---"] * (len(BUILDERS) + 1)]
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            models = [build(kind, Path(folder)) for build in BUILDERS.values()]
            rows.append([kind, *(answer(model.convolutions()) for model in models)])
    return HEAD + "\n".join(f"| {' | '.join(row)} |" for row in rows) + TAIL


def main() -> int:
    """Write the page; gives the exit code."""
    torch.manual_seed(0)
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
