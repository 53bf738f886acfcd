"""Writes docs/layers.md: what becomes of each layer type in each format.

Nothing is listed by hand but examples of shapes: a small model is made of each for every format, by what is
registered there, and the format and the schemes that are registered are asked what they do with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import twofold
from twofold import layer_types
from twofold.backends import as_model
from twofold.conv import ConvGeometry, ConvLayer, Size, Skipped
from twofold.formats.base import Model
from twofold.formats.caffe import layer_types as caffe_types
from twofold.formats.onnx import layer_types as onnx_types
from twofold.formats.torch import layer_types as torch_types
from twofold.lowrank.schemes import SCHEMES, scheme

PAGE = Path(__file__).with_name("layers.md")
C = 32


def conv(axes: int = 2, kernel: int = 3, pad: int = 1, **options: int) -> ConvGeometry:
    """A convolution of 32 to 32 channels."""
    return ConvGeometry.of(C, C, (kernel,) * axes, pad=pad, **options)


CONVOLUTIONS = {
    "convolution over two axes": conv(),
    "over one axis": conv(axes=1),
    "over three axes": conv(axes=3),
    "with a stride": conv(stride=2),
    "dilated": conv(dilation=2),
    "in groups": conv(groups=4),
    "depthwise": conv(groups=C),
    "1x1": conv(kernel=1, pad=0),
}
#: A shape of every adapter.
KINDS = CONVOLUTIONS | {
    "transposed convolution": replace(conv(), layer_type="transposed"),
    "transposed, depthwise (upsampling)": replace(conv(groups=C), layer_type="transposed"),
    "fully connected": ConvGeometry.linear(C, C),
}

Build = Callable[[ConvGeometry, Path], Model]


def shape_of(geometry: ConvGeometry) -> Size:
    """Shape of an input."""
    return (1, C, *[8] * len(geometry.kernel)) if geometry.semantics.spatial else (1, C)


def caffe(geometry: ConvGeometry, folder: Path) -> Model:
    """A Caffe definition with one layer; weights are not needed to say what can be done."""
    adapter = caffe_types.plain(geometry.layer_type)
    dims = " ".join(f"dim: {size}" for size in shape_of(geometry))
    sizes = (pair for one in adapter.sizes(geometry) for pair in one.spelled)
    numbers = " ".join(f"{name}: {value}" for name, value in sizes)
    path = folder / "net.prototxt"
    path.write_text(
        f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'
        f'layer {{ name: "layer" type: "{adapter.types[0]}" bottom: "data" top: "layer" '
        f"{adapter.param} {{ num_output: {C} {numbers} }} }}\n"
    )
    return twofold.load(path)


def onnx_file(geometry: ConvGeometry, folder: Path) -> Model:
    """An ONNX file with one node."""
    adapter, size = onnx_types.plain(geometry.layer_type), shape_of(geometry)
    weight = geometry.semantics.stored(np.ones(geometry.weight_shape, np.float32), geometry)
    attributes: dict[str, Any] = {**adapter.attributes(geometry)}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(adapter.operators[0][1], ["x", "w"], ["y"], "layer", **attributes)], "g",
        [value("x", TensorProto.FLOAT, size)], [value("y", TensorProto.FLOAT, [None] * len(size))],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), folder / "net.onnx")
    return twofold.load(folder / "net.onnx")


def module(geometry: ConvGeometry, _: Path) -> Model:
    """A module that is one layer."""
    model: Model = as_model(nn.Sequential(torch_types.plain(geometry.layer_type).make(geometry, {})))
    return model


#: By the name of the format; those that `load` opens, and modules.
BUILDERS: dict[str, Build] = {"caffe": caffe, "onnx": onnx_file, "PyTorch": module}
#: The same: what says a kind there, by the name of the adapter.
NAMES: dict[str, Callable[[str], tuple[str, ...]]] = {
    "caffe": caffe_types.types,
    "onnx": onnx_types.operators,
    "PyTorch": torch_types.modules,
}


def answer(layers: Iterable[ConvLayer | Skipped]) -> str:
    """What becomes of the only layer of a model, in words."""
    (layer, *_) = [*layers, None]
    if layer is None:
        return "stays: no convolution"
    if isinstance(layer, Skipped):
        return f"stays: {layer.reason}"
    rejections = {name: scheme(name).rejection(layer.geometry) for name in SCHEMES}
    taking = [name for name, reason in rejections.items() if reason is None]
    if taking:
        return ", ".join(taking)
    return "stays: " + "; ".join(dict.fromkeys(str(reason) for reason in rejections.values()))


HEAD = """\
# What becomes of each layer type

For each format and type the schemes that take it, or why it stays as it is. `make docs` writes this page; it
asks the formats and the schemes themselves.

"""
MIDDLE = """

A fully connected layer is like a 1x1 convolution taken by the scheme `channel` only, which competes by
default where there are calibration inputs. A layer is found by these names:

"""
TAIL = """

Whatever the type, a layer stays where its weight is computed, quantized or an input of the graph, where it is
shared with something else than layers of the same shape, and where no rank makes it cheaper. `twofold
inspect` says so for every layer of a model.
"""


def page() -> str:
    """The text of the page."""
    rows = [["layer type", *BUILDERS], ["---"] * (len(BUILDERS) + 1)]
    for name, geometry in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            models = [build(geometry, Path(folder)) for build in BUILDERS.values()]
            rows.append([name, *(answer(model.convolutions()) for model in models)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return HEAD + table + MIDDLE + "\n".join(map(names, layer_types.LAYER_TYPES)) + TAIL


def names(layer_type: str) -> str:
    """By which names a layer type is found, in a line."""
    found = (f"{name}: {', '.join(f'`{one}`' for one in of(layer_type))}" for name, of in NAMES.items())
    return f"- {layer_types.LAYER_TYPES[layer_type].words} · {' · '.join(found)}"


def main() -> int:
    """Write the page; gives the exit code."""
    torch.manual_seed(0)
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
