"""The runner for Caffe nets: what it shows, swaps and protects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.small import HEAD, NET, conv, write

import twofold
from twofold.calibration.runners import runner_for
from twofold.conv import ConvLayer, FactorConv, Factors
from twofold.errors import InputError, ModelError, OptionError
from twofold.lowrank import LayerFit

pytest.importorskip("torch")

SOFTMAX = 'layer { name: "prob" type: "Softmax" bottom: "out" top: "prob" }\n'
UNKNOWN = 'layer { name: "odd" type: "Odd" bottom: "BLOB" top: "odd" }\n'


def runner_of(folder, text=NET, targets=(), **options):
    return runner_for(twofold.load(*write(folder, text), **options), targets)


def layers_of(folder):
    model = twofold.load(folder / "net.prototxt", folder / "net.caffemodel")
    return [layer for layer in model.convolutions() if isinstance(layer, ConvLayer)]


def batch(seed=0, count=2):
    return {"data": np.random.default_rng(seed).normal(size=(count, 16, 12, 12)).astype(np.float32)}


def full(layer):
    return Factors("spatial", (), (FactorConv(layer.geometry, layer.weight, layer.bias),))


def test_what_is_fed_and_protected(tmp_path):
    runner = runner_of(tmp_path)
    assert dict(runner.inputs) == {"data": (16, 12, 12)}
    assert runner.outputs == runner.network_outputs == ("out",)
    assert [layer.name for layer in runner.reached(layers_of(tmp_path)[::-1])] == ["one", "two", "out"]


def test_probabilities_are_protected_by_their_logits(tmp_path):
    runner = runner_of(tmp_path, NET + SOFTMAX)
    assert runner.outputs == ("out",)
    assert runner.network_outputs == ("prob",)


def test_an_output_may_be_named(tmp_path):
    runner = runner_of(tmp_path, targets=("one",))
    assert runner.outputs == ("one",)
    assert [layer.name for layer in runner.reached(layers_of(tmp_path))] == ["one"]
    with pytest.raises(OptionError, match="no blob 'three'"):
        runner_of(tmp_path, targets=("three",))


def test_unknown_layers_behind_the_last_convolution_do_not_matter(tmp_path):
    runner = runner_of(tmp_path, NET + UNKNOWN.replace("BLOB", "out"))
    assert runner.outputs == ("out",)
    assert runner.run(batch())["out"].shape == (2, 5, 12, 12)


def test_unknown_layers_before_everything_are_named(tmp_path):
    files = write(tmp_path)
    odd = UNKNOWN.replace("BLOB", "data")
    Path(files[0]).write_text(
        NET.replace(HEAD, HEAD + odd).replace('bottom: "data"\n  top', 'bottom: "odd"\n  top')
    )
    with pytest.raises(ModelError, match=r"'odd' of the unknown type 'Odd'.*Register a type"):
        runner_for(twofold.load(*files))


def test_an_input_of_unknown_shape_is_named(tmp_path):
    files = write(tmp_path)
    text = NET.replace("input_param { shape { dim: 1 dim: 16 dim: 12 dim: 12 } }", "")
    Path(files[0]).write_text(text.replace('type: "Input"', 'type: "Data"'))
    with pytest.raises(InputError, match="shape of input 'data' is not known"):
        runner_for(twofold.load(*files))
    known = twofold.load(*files, inputs={"data": (1, 16, 9, 9)})
    assert runner_for(known).inputs["data"] == (16, 9, 9)


def test_watch_shows_what_each_layer_gets(tmp_path):
    runner, layers, x = runner_of(tmp_path), layers_of(tmp_path), batch()
    seen = {one.layer: one.inputs for one in runner.record_inputs(layers, x)}
    assert list(seen) == ["one", "two", "out"]
    np.testing.assert_array_equal(seen["one"], x["data"])
    np.testing.assert_array_equal(seen["two"], runner_of(tmp_path, targets=("one",)).run(x)["one"])
    assert seen["out"].min() == 0  # after the ReLU, which works in place
    assert [one.layer for one in runner.record_inputs(layers[:1], x)] == ["one"]


def test_gradients_are_those_of_a_random_projection(tmp_path):
    """The derivative by a layer's bias, by differences, is the sum of its gradient over positions."""
    runner, layers, x = runner_of(tmp_path), layers_of(tmp_path), batch(count=1)
    seen = {one.layer: one.gradients for one in runner.record_inputs(layers, x, np.random.default_rng(3))}
    out = runner.run(x)["out"].astype(np.float64)
    v = np.random.default_rng(3).standard_normal(out.shape, np.float32) / np.linalg.norm(out - out.mean())
    layer, step = layers[1], 1e-3
    for channel in (0, 7, 63):
        values = []
        for sign in (-1, 1):
            bias = layer.bias.copy()
            bias[channel] += sign * step
            stack = Factors("spatial", (), (FactorConv(layer.geometry, layer.weight, bias),))
            values.append(float((runner.run(x, [(layer, stack)])["out"] * v).sum()))
        numeric = (values[1] - values[0]) / (2 * step)
        assert seen["two"][0, channel].sum() == pytest.approx(numeric, rel=2e-2, abs=2e-4)


def test_trials_are_runs_with_one_layer_changed(tmp_path):
    runner, layers, x = runner_of(tmp_path), layers_of(tmp_path), batch()
    stacks = [
        (layer, [LayerFit(layer).factorize("spatial", "hw").factors((rank,)) for rank in (3, 20)])
        for layer in layers[:2]
    ]
    found = list(runner.trials(stacks, x))
    assert [(name, index) for name, index, _ in found] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    for name, index, outputs in found:
        layer, tried = next(entry for entry in stacks if entry[0].name == name)
        expected = runner.run(x, [(layer, tried[index])])["out"]
        np.testing.assert_allclose(outputs["out"], expected, rtol=1e-5, atol=1e-5)
    original = runner.run(x)["out"]
    assert np.abs(found[0][2]["out"] - original).max() > 1e-2
    np.testing.assert_allclose(runner.run(x, [(layers[0], full(layers[0]))])["out"], original, rtol=1e-6)


def test_the_weight_that_layers_share_is_swapped_in_all(tmp_path):
    named = 'param { name: "w" } param { name: "b" } convolution_param'
    text = HEAD.replace("16", "64") + conv("one", "data") + conv("two", "one")
    text = text.replace("convolution_param", named)
    runner = runner_of(tmp_path, text)
    (layer,) = layers_of(tmp_path)
    assert layer.sharers == ("two",)
    x = {"data": np.random.default_rng(0).normal(size=(1, 64, 12, 12)).astype(np.float32)}
    assert [one.layer for one in runner.record_inputs([layer], x)] == ["one", "one"]
    zero = Factors("spatial", (), (FactorConv(layer.geometry, 0 * layer.weight, np.ones(64, np.float32)),))
    assert (runner.run(x, [(layer, zero)])["two"] == 1).all()


def test_a_stack_at_full_rank_gives_the_same_outputs(tmp_path):
    runner, x = runner_of(tmp_path), batch()
    layer = layers_of(tmp_path)[0]
    stack = LayerFit(layer).factorize("input", "").factors((16,))
    np.testing.assert_allclose(
        runner.run(x, [(layer, stack)])["out"], runner.run(x)["out"], rtol=1e-3, atol=1e-3
    )


def test_volumes_run_as_they_are(tmp_path):
    """Only what lies along two axes lies channels last."""
    head = HEAD.replace("dim: 12 dim: 12", "dim: 6 dim: 6 dim: 6")
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(64, 16, 3, 3, 3)).astype(np.float32), np.ones(64, np.float32)
    model = twofold.load(*write(tmp_path, head + conv("one", "data"), {"one": [weight, bias]}))
    x = rng.normal(size=(2, 16, 6, 6, 6)).astype(np.float32)
    found = runner_for(model).run({"data": x})["one"]
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3, 3), (2, 3, 4))
    inside = np.einsum("ncdhwijk,ocijk->nodhw", windows, weight) + 1
    np.testing.assert_allclose(found[:, :, 1:-1, 1:-1, 1:-1], inside, rtol=1e-3, atol=1e-3)


def test_outputs_lie_as_callers_expect(tmp_path):
    runner, x = runner_of(tmp_path), batch()
    assert all(output.flags.c_contiguous for output in runner.run(x).values())


@pytest.mark.parametrize(("kind", "why"), [("Python", "runs code"), ("Proposal", "chooses regions")])
def test_what_stands_before_a_proposal_is_calibrated(tmp_path, kind, why):
    """As in Faster R-CNN, whose one data layer feeds im_info, too, which nothing that can be run reads."""
    head = 'input: "data" input_dim: 1 input_dim: 16 input_dim: 12 input_dim: 12\n'
    head += 'input: "im_info" input_dim: 1 input_dim: 3 input_dim: 1 input_dim: 1\n'
    text = head + NET.removeprefix(HEAD)
    text += f'layer {{ name: "rois" type: "{kind}" bottom: "out" bottom: "im_info" top: "rois" }}\n'
    text += 'layer { name: "roi" type: "ROIPooling" bottom: "two" bottom: "rois" top: "roi" '
    text += "roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 1 } }\n"
    text += 'layer { name: "prob" type: "Softmax" bottom: "roi" top: "prob" }\n'
    runner = runner_of(tmp_path, text)
    assert runner.outputs == ("out",)
    assert runner.inputs == {"data": (16, 12, 12)}
    reached = [layer.name for layer in runner.reached(layers_of(tmp_path))]
    assert reached == ["one", "two", "out"]
    assert why in runner.notes[0]
