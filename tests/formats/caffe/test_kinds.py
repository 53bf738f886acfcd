"""InnerProduct and Deconvolution layers: found, replaced, written, and what Caffe and OpenCV make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from tests.small import assert_close, opencv, write_weights

import twofold
from twofold.caffe_torch import to_torch
from twofold.conv import ConvLayer, Skipped
from twofold.decomposition.apply import apply_plan
from twofold.formats.caffe.blob import new_blob
from twofold.formats.caffe.model import CaffeModel
from twofold.formats.caffe.wire import length_field, varint_field
from twofold.inspect import inspect

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { DIMS } } }\n'
LINEAR = """layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { num_output: 24 weight_filler { type: "xavier" } OPTIONS } }
"""
UP = """layer { name: "up" type: "Deconvolution" bottom: "data" top: "up"
  convolution_param { num_output: 12 OPTIONS } }
"""


def net(body: str, options: str, *shape: int) -> str:
    dims = " ".join(f"dim: {n}" for n in shape)
    return INPUT.replace("DIMS", dims) + body.replace("OPTIONS", options)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def opened(folder: Path, text: str, *blobs: np.ndarray) -> CaffeModel:
    (folder / "net.prototxt").write_text(text)
    name = "fc" if '"fc"' in text else "up"
    write_weights(folder / "net.caffemodel", {name: list(blobs)})
    return twofold.load(folder / "net.prototxt", folder / "net.caffemodel")


def run(model: CaffeModel, x: np.ndarray) -> np.ndarray:
    (found,) = to_torch(model)({"data": torch.from_numpy(x)}).values()
    return found.detach().numpy()


def full(model: CaffeModel, scheme: str) -> twofold.Result:
    result = twofold.decompose(model, ranks={"*": "full"}, schemes=scheme, no_data=True)
    assert result.plan.choices
    return result


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ("", (2, 3, 4, 5)), ("axis: 1", (2, 60)), ("axis: 2", (2, 7, 6, 10)), ("axis: -1", (3, 5, 60)),
        ("transpose: true", (2, 3, 4, 5)), ("bias_term: false", (2, 60)),
    ],
)  # fmt: skip
def test_every_inner_product(tmp_path, options, shape):
    transposed, biased = "transpose" in options, "false" not in options
    text = net(LINEAR if biased else LINEAR.replace(" param { lr_mult: 2 }", ""), options, *shape)
    weight = numbers(60, 24) if transposed else numbers(24, 60)
    model = opened(tmp_path, text, weight, *([numbers(24, seed=1)] if biased else []))
    result, x = full(model, "channel"), numbers(*shape, seed=2)
    assert_close(run(result.model, x), run(model, x))
    paths = result.save(tmp_path / "out")
    written = paths[0].read_text()
    assert written.count('type: "InnerProduct"') == 2
    assert written.count("bias_term: false") == (1 if biased else 2)
    assert_close(run(twofold.load(*paths[:2]), x), run(model, x))
    if not transposed and shape[0] == 2 and "-1" not in options:
        assert_close(opencv(*paths[:2], x)[0].reshape(run(model, x).shape), run(model, x))


def test_macs_of_an_inner_product_count_its_positions(tmp_path):
    model = opened(tmp_path, net(LINEAR, "axis: 2", 2, 7, 6, 10), numbers(24, 60), numbers(24))
    (layer,) = model.convolutions()
    assert layer.macs == 7 * 24 * 60
    assert layer.geometry.layer_type == "linear"


def test_an_inner_product_over_the_batch_stays(tmp_path):
    model = opened(tmp_path, net(LINEAR, "axis: 0", 2, 30), numbers(24, 60), numbers(24))
    (skipped,) = model.convolutions()
    assert skipped.reason == "it takes the whole batch as one vector (axis 0)"


@pytest.mark.parametrize(
    "options",
    [
        "kernel_size: 3", "kernel_size: 4 stride: 2 pad: 1",
        "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3",
        "kernel_size: 3 stride: 2 dilation: 2 pad: 1", "kernel_size: 4 stride: 2 pad: 1 group: 4",
        "kernel_size: 4 stride: 2 pad: 1 bias_term: false",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["spatial", "channel", "input", "tucker2"])
def test_every_deconvolution(tmp_path, options, scheme):
    groups = 4 if "group" in options else 1
    model = CaffeModel.load(_text_file(tmp_path, net(UP, options, 2, 8, 5, 6)))
    (layer,) = model.convolutions()
    blobs = [numbers(8, 12 // groups, *layer.geometry.kernel), numbers(12, seed=1)]
    model = opened(tmp_path, net(UP, options, 2, 8, 5, 6), *blobs[: 1 if "false" in options else 2])
    result, x = full(model, scheme), numbers(2, 8, 5, 6, seed=2)
    wanted = run(model, x)
    (layer,) = model.convolutions()
    assert layer.geometry.output_size((5, 6)) == wanted.shape[2:]
    paths = result.save(tmp_path / "out")
    assert_close(run(twofold.load(*paths[:2]), x), wanted)
    if groups == 1 and "dilation" not in options:  # OpenCV leaves both out
        assert_close(opencv(*paths[:2], x)[0], wanted)
    types = [spec.type for spec in result.model.net().layers[1:]]
    alone = {"spatial": 0, "channel": 1, "input": 1, "tucker2": 2}[scheme]
    assert types.count("Convolution") == alone
    assert types.count("Deconvolution") == len(types) - alone


def _text_file(folder: Path, text: str) -> Path:
    (folder / "shape.prototxt").write_text(text)
    return folder / "shape.prototxt"


def test_bilinear_upsampling_stays(tmp_path):
    text = net(UP, "kernel_size: 4 stride: 2 pad: 1 group: 12 bias_term: false", 1, 12, 5, 6)
    model = opened(tmp_path, text, numbers(12, 1, 4, 4))
    (layer,) = inspect(model).layers
    assert layer.reason.startswith("depthwise convolution (groups = 12")


OLD = """input: "data" input_dim: 1 input_dim: 8 input_dim: 5 input_dim: 6
layers { name: "up" type: DECONVOLUTION bottom: "data" top: "up"
  blobs_lr: 1 blobs_lr: 2 convolution_param { num_output: 12 kernel_size: 3 } }
layers { name: "fc" type: INNER_PRODUCT bottom: "up" top: "fc"
  blobs_lr: 1 blobs_lr: 2 inner_product_param { num_output: 24 } }
"""


def test_old_nets_keep_their_age(tmp_path):
    (tmp_path / "net.prototxt").write_text(OLD)
    blobs = {"up": [numbers(8, 12, 3, 3), numbers(12)], "fc": [numbers(24, 672), numbers(24)]}
    write_weights(tmp_path / "net.caffemodel", blobs)
    model = twofold.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    result = full(model, "channel")
    x = numbers(1, 8, 5, 6, seed=2)
    paths = result.save(tmp_path / "out")
    text = paths[0].read_text()
    assert [text.count(f"type: {kind} ") for kind in ("DECONVOLUTION", "CONVOLUTION", "INNER_PRODUCT")] == [
        1,
        1,
        2,
    ]
    assert_close(opencv(*paths[:2], x)[0], run(model, x))


PAIR = (
    net(LINEAR, "", 8, 3, 4, 5)
    + """layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "out" type: "InnerProduct" bottom: "fc" top: "out" inner_product_param { num_output: 20 } }
"""
)


def correlated(count: int, seed: int) -> np.ndarray:
    few = numbers(count, 8, seed=seed) @ numbers(8, 60, seed=3) + 0.1 * numbers(count, 60, seed=seed)
    return few.reshape(count, 3, 4, 5)


def pair(folder: Path) -> CaffeModel:
    (folder / "net.prototxt").write_text(PAIR)
    blobs = {"fc": [numbers(24, 60), numbers(24)], "out": [numbers(20, 24), numbers(20)]}
    write_weights(folder / "net.caffemodel", blobs)
    return twofold.load(folder / "net.prototxt", folder / "net.caffemodel")


def test_a_fit_to_data_beats_one_to_weights(tmp_path):
    model, holdout = pair(tmp_path), correlated(64, 5)
    one = {"ranks": {"fc": 8}, "only": "fc", "schemes": "channel"}
    fitted = twofold.decompose(model, data={"data": correlated(256, 4)}, **one)
    blind = twofold.decompose(model, no_data=True, **one)
    wanted = run(model, holdout)
    lost = [np.linalg.norm(run(one.model, holdout) - wanted) for one in (fitted, blind)]
    assert lost[0] < 0.5 * lost[1]


def test_plans_are_carried_out_again_and_shared_weights_stay_shared(tmp_path):
    result = twofold.decompose(pair(tmp_path), data={"data": correlated(64, 4)}, macs=0.6, multiple=4)
    assert {choice.geometry.layer_type for choice in result.plan.choices} == {"linear"}
    paths = result.save(tmp_path / "out")
    again = apply_plan(twofold.Plan.load(paths[2]), pair(tmp_path), twofold.load(*paths[:2])).save(
        tmp_path / "b"
    )
    assert [one.read_bytes() for one in again] == [one.read_bytes() for one in paths]


def test_a_weight_that_layers_share_is_shared_by_its_factors(tmp_path):
    tied = LINEAR.replace("param { lr_mult: 1 }", 'param { name: "w" }').replace("OPTIONS", "")
    text = net(LINEAR, "", 2, 60).split("\n")[0] + "\n" + tied + tied.replace('"fc"', '"again"')
    (tmp_path / "net.prototxt").write_text(text)
    weight = numbers(24, 60)
    blobs = {"fc": [weight, numbers(24)], "again": [weight, numbers(24, seed=1)]}
    write_weights(tmp_path / "net.caffemodel", blobs)
    model = twofold.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    (layer,) = model.convolutions()
    assert isinstance(layer, ConvLayer)
    assert layer.sharers == ("again",)
    result, x = full(model, "channel"), numbers(2, 60, seed=2)
    feed = {"data": torch.from_numpy(x)}
    before, after = to_torch(model)(feed), to_torch(result.model)(feed)
    for name in ("fc", "again"):
        assert_close(after[name].detach().numpy(), before[name].detach().numpy())


def test_one_that_transposes_the_shared_weight_is_left_alone(tmp_path):
    tied = LINEAR.replace("param { lr_mult: 1 }", 'param { name: "w" }').replace(
        "num_output: 24", "num_output: 60"
    )
    text = net("", "", 2, 60) + tied.replace("OPTIONS", "")
    text += tied.replace("OPTIONS", "transpose: true").replace('"fc"', '"again"')
    (tmp_path / "net.prototxt").write_text(text)
    (skipped,) = twofold.load(tmp_path / "net.prototxt").convolutions()
    assert isinstance(skipped, Skipped)
    assert "shares its weight with layer 'again'" in skipped.reason


@pytest.mark.parametrize(("version", "old", "new"), [("V2", "Deconvolution", "Convolution"), ("V1", 39, 4)])
def test_the_weights_file_says_the_type_and_the_shape_of_every_factor(tmp_path, version, old, new):
    # Numbers of the fields in caffe.proto.
    entry, name, type_, blobs, param = {"V2": (100, 1, 2, 7, 106), "V1": (2, 4, 5, 6, 10)}[version]
    shape = b"".join(varint_field(*pair) for pair in ((1, 12), (2, 0), (3, 1), (4, 4), (6, 2)))
    layer = length_field(name, b"up") + (
        varint_field(type_, old) if isinstance(old, int) else length_field(type_, old.encode())
    )
    layer += length_field(blobs, new_blob(numbers(8, 12, 4, 4), "up")) + length_field(param, shape)
    (tmp_path / "net.caffemodel").write_bytes(length_field(entry, layer))
    (tmp_path / "net.prototxt").write_text(
        net(UP, "kernel_size: 4 stride: 2 pad: 1 bias_term: false", 1, 8, 5, 6)
    )
    model = twofold.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    result = twofold.decompose(model, ranks={"*": 3}, schemes="input", no_data=True)
    paths = result.save(tmp_path / "out")
    first, second = twofold.load(*paths[:2]).weights.layers
    assert [first.type, second.type] == [new, old]
    content = paths[1].read_bytes()
    for pairs in (((1, 3), (2, 0), (4, 1)), ((1, 12), (2, 0), (3, 1), (4, 4), (6, 2))):
        assert length_field(param, b"".join(varint_field(*pair) for pair in pairs)) in content
