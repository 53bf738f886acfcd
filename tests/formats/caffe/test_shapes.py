"""Shapes of blobs against those that Caffe recorded, and its rejections."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from twofold.errors import ModelError, OptionError
from twofold.formats.caffe.net import read_net
from twofold.formats.caffe.prototxt import parse
from twofold.formats.caffe.shapes import RULES, infer_shapes, register

DATA = Path(__file__).parents[2] / "data" / "caffe"
CASES = sorted(path.name for path in (DATA / "forward").iterdir())
PROBES = json.loads((DATA / "prototxt" / "verdicts.json").read_text())
#: The number of rows depends on the values, so the definition does not tell it.
OF_VALUES = {"DetectionOutput", "Filter"}


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_those_of_caffe(name):
    folder = DATA / "forward" / name
    case = json.loads((folder / "case.json").read_text())
    net = read_net(parse((folder / "net.prototxt").read_bytes()), case["phase"])
    given, recorded = np.load(folder / "input.npz"), np.load(folder / "output.npz")
    inputs = {blob: given[blob].shape for blob in given.files} if case.get("reshape") else {}
    shapes = infer_shapes(net, inputs)
    kinds = {top: layer.type for layer in net.layers for top in layer.tops}
    for blob in recorded.files:
        wanted = None if kinds[blob] in OF_VALUES else recorded[blob].shape
        assert shapes[blob] == wanted, blob


@pytest.mark.parametrize("name", sorted(name for name, verdict in PROBES.items() if verdict["caffe"]))
def test_shapes_of_every_text_that_caffe_builds(name):
    net = read_net(parse((DATA / "prototxt" / f"{name}.prototxt").read_bytes()))
    found = {blob: list(shape) for blob, shape in infer_shapes(net).items()}
    assert found == PROBES[name]["tops"]


INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 6 dim: 9 dim: 7 } } }\n'


def shape_of(layer: str, before: str = INPUT) -> tuple[int, ...] | None:
    net = read_net(parse(f'{before}layer {{ name: "y" top: "y" {layer} }}'.encode(), "net.prototxt"))
    return infer_shapes(net)["y"]


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("num_output: 3 kernel_size: 12", "kernel is larger"),
        ("num_output: 3", "kernel_size is missing"),
        ("num_output: 3 kernel_h: 2", "add the other"),
        ("num_output: 3 kernel_size: 3 stride: 0", "stride is .*at least 1"),
        ("num_output: 3 kernel_size: 3 dilation: 0", "dilation is .*at least 1"),
        ("num_output: 3 kernel_size: 0", "kernel_size is .*at least 1"),
        ("num_output: 0 kernel_size: 3", "num_output is 0"),
        ("num_output: 4 kernel_size: 3 group: 3", "group is 3, which must divide"),
        ("num_output: 4 kernel_size: 3 group: 0", "group is 0"),
        ("num_output: 4 kernel_size: [3, 3, 3]", "3 values; allowed are one"),
        ("num_output: 4 kernel_size: 3 axis: 4", "axis 4 of an input with 4 axes"),
        ("num_output: 4 kernel_size: 3 axis: 3", "no spatial axes"),
        ("num_output: 4 kernel_h: 3 kernel_w: 3 axis: 2", "two spatial axes only"),
    ],
)
def test_convolutions_that_caffe_refuses(layer, reason):
    text = f'type: "Convolution" bottom: "x" convolution_param {{ {layer} }}'
    with pytest.raises(ModelError, match=rf"net\.prototxt:2:7: layer 'y'.*({reason})"):
        shape_of(text)


@pytest.mark.parametrize(
    "layer",
    [
        'type: "Pooling" bottom: "x" pooling_param { kernel_size: 2 pad: 2 }',
        'type: "Pooling" bottom: "x" pooling_param { kernel_size: 3 stride: 0 }',
        'type: "Concat" bottom: "x" bottom: "x" concat_param { axis: 1 concat_dim: 1 }',
        'type: "Concat" bottom: "x" bottom: "x" concat_param { axis: 7 }',
        'type: "Reshape" bottom: "x" reshape_param { shape { dim: 5 dim: -1 dim: 11 } }',
        'type: "Reshape" bottom: "x" reshape_param { shape { dim: 0 dim: 0 dim: 0 dim: 0 dim: 0 } }',
        'type: "Flatten" bottom: "x" flatten_param { axis: 9 }',
        'type: "Crop" bottom: "x"',
        'type: "InnerProduct" bottom: "x" inner_product_param { num_output: 3 axis: 8 }',
        'type: "Softmax"',
    ],
)
def test_other_layers_that_caffe_refuses(layer):
    with pytest.raises(ModelError, match=r"net\.prototxt:2:7: layer 'y'"):
        shape_of(layer)


def test_what_is_not_known_stays_unknown():
    assert shape_of('type: "Fancy" bottom: "x"') is None
    assert shape_of('type: "Data"', "") is None
    behind = INPUT + 'layer { name: "f" type: "Fancy" bottom: "x" top: "f" }\n'
    assert shape_of('type: "ReLU" bottom: "f"', behind) is None


def test_data_layers_that_crop():
    crop = "transform_param { crop_size: 24 }"
    assert shape_of(f'type: "Data" data_param {{ source: "a" batch_size: 5 }} {crop}', "") == (5, 3, 24, 24)
    gray = 'type: "ImageData" image_data_param { source: "a" batch_size: 5 is_color: false }'
    assert shape_of(f"{gray} {crop}", "") == (5, 1, 24, 24)
    assert shape_of(gray, "") is None
    resized = gray.replace("is_color: false", "new_height: 32 new_width: 30")
    assert shape_of(resized, "") == (5, 3, 32, 30)
    assert shape_of(f"{resized} {crop}", "") == (5, 3, 24, 24)
    memory = "memory_data_param { batch_size: 2 channels: 1 height: 4 width: 5 }"
    assert shape_of(f'type: "MemoryData" {memory}', "") == (2, 1, 4, 5)


def test_inputs_replace_what_the_file_says():
    net = read_net(parse(INPUT.encode()))
    assert infer_shapes(net, {"x": (1, 3, 4, 4)}) == {"x": (1, 3, 4, 4)}


def test_a_type_has_one_rule():
    with pytest.raises(OptionError, match="'ReLU' is registered already"):
        register("ReLU")(RULES["ReLU"])
