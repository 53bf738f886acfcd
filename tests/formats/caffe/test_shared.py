"""Layers that share one weight are replaced together, each with its own bias."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import twofold
from twofold.caffe_torch import to_torch
from twofold.conv import ConvLayer, FactorConv, Factors
from twofold.errors import ModelError
from twofold.formats.caffe.caffemodel import NewLayer, create_weights, read_weights
from twofold.formats.caffe.model import CaffeModel
from twofold.lowrank import composed

INPUT = (
    'layer { name: "%s" type: "Input" top: "%s" input_param { shape { dim: 1 dim: 32 dim: 8 dim: 8 } } }\n'
)
CONV = (
    'layer { name: "%s" type: "Convolution" bottom: "%s" top: "%s" param { name: "w" } '
    "convolution_param { num_output: 32 kernel_size: 3 pad: 1 %s } }\n"
)


def _model(folder: Path, second: str) -> tuple[CaffeModel, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    text = INPUT % ("a", "a") + INPUT % ("b", "b") + CONV % ("left", "a", "l", "bias_term: false")
    text += CONV % ("right", "b", "r", second)
    (folder / "net.prototxt").write_text(text)
    stale = rng.standard_normal((32, 32, 3, 3)).astype(np.float32)
    weight = rng.standard_normal((32, 32, 3, 3)).astype(np.float32)
    bias = rng.standard_normal(32).astype(np.float32)
    right = [weight] if "false" in second else [weight, bias]
    weights = create_weights(
        [NewLayer("left", "Convolution", [stale]), NewLayer("right", "Convolution", right)]
    )
    with (folder / "net.caffemodel").open("wb") as stream:
        weights.write(stream)
    return twofold.load(folder / "net.prototxt", folder / "net.caffemodel"), weight, bias


def test_all_copies_change_and_each_keeps_its_own_bias(tmp_path: Path) -> None:
    model, weight, bias = _model(tmp_path, "")
    (layer,) = model.convolutions()
    assert isinstance(layer, ConvLayer)
    assert layer.sharers == ("right",)
    # Caffe copies entry by entry into the shared memory, so the last copy in the file is the net's weight.
    np.testing.assert_array_equal(layer.weight, weight)
    result = twofold.decompose(model, ranks={"left": 96})
    result.save(tmp_path / "out")
    stored = read_weights(tmp_path / "out" / "net.caffemodel")
    text = (tmp_path / "out" / "net.prototxt").read_text()
    assert text.count('name: "w_0"') == 2
    assert text.count('name: "w_1"') == 2
    for name, own in (("left", None), ("right", bias)):
        convs = []
        for i, conv in enumerate(result.factors["left"].convs):
            entry = stored.layer((f"{name}_0", name)[i])  # both give outputs, and keep their names
            assert entry is not None
            convs.append(FactorConv(conv.geometry, entry.blobs[0].array()))
        product = composed(Factors("spatial", (96,), tuple(convs)))
        np.testing.assert_allclose(product, weight, atol=1e-4)
        last = stored.layer(name)
        assert last is not None
        assert len(last.blobs) == (1 if own is None else 2)
        if own is not None:
            np.testing.assert_array_equal(last.blobs[1].array(), own)


def test_sharers_of_another_stride_are_left_alone(tmp_path: Path) -> None:
    model, _, _ = _model(tmp_path, "bias_term: false stride: 2")
    (skipped,) = model.convolutions()
    assert isinstance(skipped, twofold.Skipped)
    assert "another shape or stride" in skipped.reason


def test_weights_of_another_net_are_refused_though_a_name_agrees(tmp_path: Path) -> None:
    _model(tmp_path, "")
    conv = NewLayer("conv", "Convolution", [np.ones((1, 1, 1, 1))])
    other = create_weights([NewLayer("left", "Input"), conv])
    with (tmp_path / "other.caffemodel").open("wb") as stream:
        other.write(stream)
    with pytest.raises(ModelError, match="do not belong together"):
        twofold.load(tmp_path / "net.prototxt", tmp_path / "other.caffemodel")


def test_a_weight_and_bias_that_only_their_owner_stores(tmp_path: Path) -> None:
    """Caffe loads them into the memory that the layers share."""
    rng = np.random.default_rng(0)
    shared = CONV.replace('param { name: "w" }', 'param { name: "w" } param { name: "b" }')
    text = INPUT % ("a", "a") + INPUT % ("b", "b")
    text += shared % ("left", "a", "l", "") + shared % ("right", "b", "r", "")
    (tmp_path / "net.prototxt").write_text(text)
    blobs = [rng.standard_normal(shape).astype(np.float32) for shape in ((32, 32, 3, 3), (32,))]
    with (tmp_path / "net.caffemodel").open("wb") as stream:
        create_weights([NewLayer("left", "Convolution", blobs)]).write(stream)
    model = twofold.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    (layer,) = model.convolutions()
    assert isinstance(layer, ConvLayer)
    assert layer.sharers == ("right",)
    result = twofold.decompose(model, ranks={"left": "full"}, schemes="spatial", no_data=True)
    prototxt, caffemodel, _ = result.save(tmp_path / "out")
    assert [entry.name for entry in read_weights(caffemodel).layers] == ["left_0", "left"]
    torch = pytest.importorskip("torch")
    x = {name: torch.randn(1, 32, 8, 8) for name in "ab"}
    with torch.no_grad():
        outputs = [to_torch(one)(x) for one in (model, twofold.load(prototxt, caffemodel))]
    for name in "lr":
        torch.testing.assert_close(outputs[1][name], outputs[0][name], rtol=0, atol=1e-3)
