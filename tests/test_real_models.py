"""Real networks, decomposed, written, and opened by OpenCV: the outputs differ as predicted."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.small import write_weights
from zoo.models import RealModel, model, models
from zoo.photographs import as_inputs, crops, photographs

import twofold
from twofold.conv import ConvLayer, FactorConv, Factors, Skipped
from twofold.decomposition.result import Result
from twofold.formats.caffe.model import CaffeModel
from twofold.formats.caffe.weights import WeightsFile
from twofold.inspect import inspect
from twofold.lowrank import composed

pytestmark = pytest.mark.models

#: Input sizes smaller than the model's own, where only the time suffers from a large one.
SMALL = {"hed": (96, 96), "hyperlpr-ssd": (256, 256)}
#: HED's larger layers take seconds each.
ONLY = {"hed": ("conv1_2", "conv2_*", "conv3_1")}
NAMES = tuple(models())


@lru_cache(maxsize=2)
def load(name: str) -> CaffeModel:
    real = model(name)
    return twofold.load(real.prototxt, real.caffemodel)


@lru_cache(maxsize=1)
def image(name: str) -> np.ndarray:
    real = model(name)
    options = real.options
    cut = crops(photographs().holdout, 1, SMALL.get(name, real.size), seed=5)
    return as_inputs(cut, options.color or "bgr", options.channel_mean(3), options.scale or 1.0)


def opencv(real: RealModel, prototxt: Path, caffemodel: Path) -> list[np.ndarray]:
    """What the net's last layers give, by OpenCV: of a detector the inputs of its last layer.

    A detector's own output is a list of boxes, of which rounding may make one more or one less.
    """
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(caffemodel))
    net.setInput(image(real.name), real.input)
    if real.output != "detection_out":
        return [net.forward(real.output)]
    text = prototxt.read_text()
    layer = text[text.rindex("layer {", 0, text.index('"DetectionOutput"')) :]
    blobs = re.findall(r'bottom: "(.*?)"', layer)[:2]
    return list(net.forward(blobs))  # OpenCV calls a layer by its blob


def differences(real: RealModel, found: list[np.ndarray], wanted: list[np.ndarray]) -> list[float]:
    """Largest difference of each blob, in units of its range."""
    assert [one.shape for one in found] == [one.shape for one in wanted]
    assert all(np.isfinite(one).all() for one in found)
    return [float(np.abs(a - b).max() / np.ptp(b)) for a, b in zip(found, wanted, strict=True)]


def with_weights(weights: WeightsFile, path: Path, other: dict[str, np.ndarray]) -> Path:
    """The same weights in float32, some of them exchanged."""
    blobs = {layer.name: [blob.array() for blob in layer.blobs] for layer in weights.layers if layer.blobs}
    for name, weight in other.items():
        blobs[name][0] = weight.astype(np.float32)
    return write_weights(path, blobs)


def check_outputs(real: RealModel, result: Result[CaffeModel], folder: Path) -> list[float]:
    """Compare the result with the original that has the products of the factors as its weights.

    Returns:
        How far it is from the original itself.
    """
    prototxt, caffemodel, _ = result.save(folder / "out")
    written = twofold.load(prototxt, caffemodel)
    layers = {layer.name: layer for layer in written.convolutions() if isinstance(layer, ConvLayer)}
    products = {}
    for choice in result.plan.choices:
        new = [layers[name] for name in result.model.replaced[choice.layer]]
        convs = tuple(FactorConv(one.geometry, one.weight) for one in new)
        products[choice.layer] = composed(Factors(choice.scheme, choice.ranks, convs))
        original = next(one for one in result.original.convolutions() if one.name == choice.layer)
        lost = np.linalg.norm(original.weight - products[choice.layer]) / np.linalg.norm(original.weight)
        assert lost == pytest.approx(choice.relative_error, rel=1e-3, abs=2e-3), choice.layer
    expected = with_weights(result.original.weights, folder / "expected.caffemodel", products)
    # Half precision is decoded to float32 for both, so that only the structure differs.
    decoded = with_weights(written.weights, folder / "decoded.caffemodel", {})
    found = opencv(real, prototxt, decoded)
    for difference in differences(real, found, opencv(real, real.prototxt, expected)):
        assert difference < 1e-4
    return differences(real, opencv(real, prototxt, caffemodel), opencv(real, real.prototxt, real.caffemodel))


def check_text(real: RealModel, result: Result[CaffeModel]) -> None:
    """Every line of the original outside the layers is in the result, in the same order."""
    new, old = (m.definition.source for m in (result.model, result.original))
    position = 0
    chosen = {choice.layer for choice in result.plan.choices}
    for message in re.split(rb"(?m)^layer", old):
        named = re.search(rb'name\s*:\s*"(.*?)"', message)
        if named and named[1].decode() in chosen:
            continue
        found = new.find(message.rstrip(), position)
        assert found >= 0, message
        position = found + len(message.rstrip())
    assert real.prototxt.read_bytes() == old


@pytest.mark.parametrize("name", NAMES)
def test_the_output_differs_as_predicted(tmp_path, name):
    result = twofold.decompose(
        load(name), energy=0.9, multiple=4, schemes=("spatial", "channel"), only=ONLY.get(name, ()),
        no_data=True,
    )  # fmt: skip
    assert result.plan.choices
    assert result.plan.totals.macs_ratio < 1
    check_text(model(name), result)
    assert 0 < max(check_outputs(model(name), result, tmp_path)) < 1.0


@pytest.mark.parametrize(("name", "rule"), [("res10-ssd", None), ("hyperlpr-chars", "amct")])
def test_so_it_does_without_a_budget(tmp_path, name, rule):
    result = twofold.decompose(load(name), rule=rule, no_data=True)
    assert result.plan.choices
    assert result.plan.totals.macs_ratio <= 1
    assert 0 < max(check_outputs(model(name), result, tmp_path)) < 1.0


def test_a_net_that_has_nothing_to_give_is_copied(tmp_path):
    real = model("hyperlpr-finemapping")
    result = twofold.decompose(load(real.name), no_data=True)
    assert not result.plan.choices
    assert check_outputs(real, result, tmp_path) == [0.0]
    for path in (real.prototxt, real.caffemodel):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


#: Residual sums, depthwise layers, half precision.
@pytest.mark.parametrize("name", ["nsfw", "hyperlpr-ssd", "hyperlpr-chars"])
def test_full_rank_gives_the_same_output(tmp_path, name):
    real = model(name)
    result = twofold.decompose(load(name), ranks={"*": "full"}, no_data=True)
    prototxt, caffemodel, _ = result.save(tmp_path)
    assert result.plan.choices
    wanted = opencv(real, real.prototxt, real.caffemodel)
    for difference in differences(real, opencv(real, prototxt, caffemodel), wanted):
        assert difference < 1e-4


@pytest.mark.parametrize("name", ["res10-ssd", "hyperlpr-ssd"])
def test_every_convolution_is_in_the_table(name):
    inspection = str(inspect(load(name)))
    for layer in load(name).convolutions():
        assert layer.name in inspection
        if isinstance(layer, Skipped):
            assert layer.reason in inspection
