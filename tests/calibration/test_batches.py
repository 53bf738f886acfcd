"""Networks that were written for one sample at a time, and mix samples that they are given together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.small import write
from torch import nn

import twofold
from twofold.calibration.batches import NOTE, unmixed
from twofold.calibration.inputs import Inputs, Provenance
from twofold.calibration.source import CalibrationSource
from twofold.decomposition.decompose import calibrate
from twofold.errors import OptionError

SAMPLES = np.random.default_rng(0).normal(size=(24, 3, 16, 16)).astype(np.float32)
CAFFE = """name: "net"
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 dim: 16 dim: 16 }} }} }}
layer {{ name: "one" type: "Convolution" bottom: "data" top: "one"
  convolution_param {{ num_output: 32 kernel_size: 3 pad: 1 }} }}
layer {{ name: "relu" type: "ReLU" bottom: "one" top: "one" }}
layer {{ name: "two" type: "Convolution" bottom: "one" top: "two"
  convolution_param {{ num_output: 32 kernel_size: 3 pad: 1 }} }}
layer {{ name: "wide" type: "Reshape" bottom: "two" top: "wide"
  reshape_param {{ shape {{ {} dim: 32 dim: -1 dim: 16 }} }} }}
layer {{ name: "three" type: "Convolution" bottom: "wide" top: "three"
  convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 }} }}
"""


class Net(nn.Module):
    """A net with a view whose batch axis has a size of its own."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.batch = batch
        self.one, self.two = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.three = nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x):
        rows = len(x) if self.batch < 0 else self.batch
        return self.three(self.two(self.one(x).relu()).view(rows, 32, -1, 16))


def caffe(folder, batch: int):
    folder.mkdir()
    return twofold.load(*write(folder, CAFFE.format("dim: 0" if batch < 0 else f"dim: {batch}")))


def module(folder, batch: int):
    return Net(batch).eval()


def onnx_file(folder, batch: int):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = {name: tensor.detach().numpy() for name, tensor in Net(batch).state_dict().items()}
    shape = np.array([max(batch, 0), 32, -1, 16], np.int64)
    nodes = [
        helper.make_node("Conv", ["x", "one.weight", "one.bias"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "two.weight", "two.bias"], ["c"], pads=[1] * 4),
        helper.make_node("Reshape", ["c", "shape"], ["d"]),
        helper.make_node("Conv", ["d", "three.weight", "three.bias"], ["y"], pads=[1] * 4),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (weights | {"shape": shape}).items()],
    )  # fmt: skip
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "net.onnx")
    return twofold.load(folder / "net.onnx", inputs={"x": (1, 3, 16, 16)})


@pytest.mark.slow
@pytest.mark.parametrize("make", [caffe, module, onnx_file])
def test_a_fixed_batch_gives_the_numbers_of_an_open_one(tmp_path, make):
    fixed, free = make(tmp_path / "fixed", 1), make(tmp_path / "free", -1)
    given = {"example_inputs": torch.zeros(1, 3, 16, 16)} if make is module else {}
    found, expected = (
        twofold.decompose(one, macs=0.5, data=SAMPLES, schemes="spatial", refine=0, **given)
        for one in (fixed, free)
    )
    # What is drawn per batch differs, so that ranks may, too; of one result both nets tell the same.
    assert 0 < found.plan.measured_error == pytest.approx(expected.plan.measured_error, rel=0.1)
    others = SAMPLES[::-1, :, ::-1]
    pairs = [(fixed, found), (free, expected), (free, found)]
    errors = [twofold.compare(*pair, data=others, runtimes=(), **given).outputs[0].error for pair in pairs]
    assert errors[0] == pytest.approx(errors[1], rel=0.1)
    assert errors[0] == pytest.approx(errors[2], rel=1e-4)


class _Runner:
    """Gives what a function makes of a batch."""

    varying: frozenset[str] = frozenset()

    def __init__(self, function) -> None:
        self.function = function

    def run(self, batch, stacks=()):
        return {"y": self.function(batch["x"])}


@pytest.mark.parametrize(
    ("function", "largest"),
    [
        (lambda x: x * 2, None),
        (lambda x: x.sum(axis=(1, 2, 3)), None),
        (lambda x: np.ones((1, 8), np.float32), None),  # nobody's own
        (np.zeros_like, None),
        (lambda x: x - x.mean(axis=0), 1),
        (lambda x: x.sum(axis=0, keepdims=True), 1),
        (lambda x: x.reshape(1, 3, -1, 16), 1),
        (lambda x: np.concatenate([x, x]) if len(x) > 1 else x, 1),
        (lambda x: np.where(len(x) > 1, np.nan, x), 1),
        (lambda x: np.where(x > 0, x, -np.inf), None),  # a mask
        (lambda x: np.where(x > 0, x, np.nan), None),
        (np.mean, None),  # a loss
        (lambda x: x.reshape(1, len(x), -1), 1),  # the batch on another axis
        (lambda x: x.reshape(1, -1), 1),
        (lambda x: x.mean(axis=0, keepdims=True), 1),
        (lambda x: x * (1 + 1e-5 * len(x)), None),  # rounding
    ],
)
def test_what_mixes_samples(function, largest):
    inputs = Inputs({"x": SAMPLES}, Provenance("arrays"), batch=16)
    found = unmixed(_Runner(function), inputs)
    assert (found.largest, found.batch) == (largest, largest or 16)
    assert (NOTE in found.provenance.notes) == (largest is not None)
    assert found.batched(8).batch == (largest or 8)


def test_such_a_net_is_taught_one_sample_at_a_time():
    module = Net(1).eval()
    given = {"example_inputs": torch.zeros(1, 3, 16, 16)}
    smaller = twofold.decompose(module, macs=0.5, no_data=True, **given)
    given |= {"data": SAMPLES}
    with pytest.raises(OptionError, match="one at a time: batch 1"):
        twofold.recover(module, smaller, options=twofold.RecoverOptions(steps=2, batch=8), **given)
    found = twofold.recover(module, smaller, options=twofold.RecoverOptions(steps=40, rate=1e-3), **given)
    assert found.after < found.before


def test_what_the_network_gives_behind_a_fixed_batch_is_measured_too(tmp_path):
    """The protected output lies before it, and runs in any batch."""
    text = CAFFE.format("dim: 1").replace("dim: -1", "dim: 16").partition('layer { name: "three"')[0]
    (tmp_path / "net").mkdir()
    found = twofold.decompose(twofold.load(*write(tmp_path / "net", text)), macs=0.6, data=SAMPLES).plan
    assert found.calibration["measured"]["outputs"] == ["two"]
    assert found.calibration["measured"]["network"]["wide"] == pytest.approx(found.measured_error, rel=0.05)


def test_batch_statistics_need_a_batch(tmp_path):
    (tmp_path / "net").mkdir()
    norm = 'layer { name: "bn" type: "BatchNorm" bottom: "one" top: "one" }\nlayer { name: "relu"'
    text = CAFFE.format("dim: 1").replace('layer { name: "relu"', norm)
    model = twofold.load(*write(tmp_path / "net", text))
    used = calibrate(model, CalibrationSource())
    assert not used.options.batch_statistics
    assert any("a batch of one has none" in note for note in used.notes)


def test_boxes_that_differ_in_number_are_no_sign():
    runner = _Runner(lambda x: np.ones((len(x) ** 3, 7), np.float32))
    runner.varying = frozenset({"y"})
    assert unmixed(runner, Inputs({"x": SAMPLES}, Provenance("arrays"))).largest is None
