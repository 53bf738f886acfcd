"""The int8 form of a net in training: what is rounded where, and that ONNX Runtime computes the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twofold.caffe_torch import CaffeNet
from twofold.formats.caffe.net import read_net
from twofold.formats.caffe.prototxt import parse

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("torchao")

from twofold.finetune.int8_net import Int8Model, Int8Net  # noqa: E402

BATCH = 4
SHAPES = {"data": (BATCH, 3, 17, 17), "label": (BATCH,)}
HEAD = """name: "many"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 17 dim: 17 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 4 } } }
"""
END = """layer { name: "score" type: "InnerProduct" bottom: "END" top: "score"
  inner_product_param { num_output: 5 transpose: true weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "score" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""


def conv(name: str, bottom: str, kernel: int = 3, more: str = "") -> str:
    return f"""layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
  convolution_param {{ num_output: 8 kernel_size: {kernel} pad: {kernel // 2} {more}
    weight_filler {{ type: "msra" }} }} }}
"""


def layer(name: str, kind: str, bottoms: str, top: str, more: str = "") -> str:
    given = " ".join(f'bottom: "{one}"' for one in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {given} top: "{top}" {more} }}\n'


AVERAGE = "pooling_param { pool: AVE kernel_size: 3 stride: 2 PAD }"
LEAKY = "relu_param { negative_slope: 0.1 }"
WITHIN = "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL alpha: 1 }"
UP = 'convolution_param { num_output: 6 kernel_size: 2 stride: 2 weight_filler { type: "msra" } }'
PLACES = 'inner_product_param { num_output: 6 axis: 3 weight_filler { type: "xavier" } }'
BIASED = "scale_param { bias_term: true }"
NORM = layer("bn", "BatchNorm", "c1", "c1") + layer("sc", "Scale", "c1", "c1", BIASED)
SHARED = conv("c2", "c1").replace(
    "convolution_param", 'param { name: "w" } param { name: "b" } convolution_param'
)
RELU = layer("r1", "ReLU", "c1", "c1")
FIRST = conv("c1", "data")

#: Layers -> the blob that is scored, the layers whose weights are in int8, and those that stay in float32.
CASES = {
    "a chain": (FIRST + RELU + conv("c2", "c1"), "c2", {"c1", "c2"}, ()),
    "normalised": (FIRST + NORM + RELU + conv("c2", "c1"), "c2", {"c1", "c2"}, ()),
    "groups": (FIRST + conv("c2", "c1", more="group: 4"), "c2", {"c1", "c2"}, ()),
    "dropout": (FIRST + RELU + layer("d", "Dropout", "c1", "c1") + conv("c2", "c1"), "c2", {"c1", "c2"}, ()),
    "weights of two layers": (
        conv("c1", "data", 1) + SHARED + SHARED.replace("c2", "c3").replace('"c1"', '"c2"'), "c3",
        {"c1", "c2", "c3"}, (),
    ),
    "a sum": (
        FIRST + conv("c2", "data", 1) + layer("e", "Eltwise", "c1 c2", "e") + layer("r", "ReLU", "e", "e")
        + conv("c3", "e"),
        "c3", {"c1", "c2", "c3"}, (),
    ),
    # Its factor is multiplied into c2, whose own output no value of the exported net is any more.
    "a sum with coefficients": (
        FIRST + conv("c2", "data", 1)
        + layer("e", "Eltwise", "c1 c2", "e", "eltwise_param { coeff: 1 coeff: -0.5 }") + conv("c3", "e"),
        "c3", {"c1", "c3"}, ("c2",),
    ),
    "joined": (
        FIRST + layer("s", "Sigmoid", "c1", "s") + layer("l", "ReLU", "c1", "l", LEAKY)
        + layer("j", "Concat", "s l", "j") + conv("c2", "j"),
        "c2", {"c1", "c2"}, (),
    ),
    "learned slopes": (FIRST + layer("p", "PReLU", "c1", "c1") + conv("c2", "c1"), "c2", {"c1", "c2"}, ()),
    "averages": (
        FIRST + RELU + layer("a", "Pooling", "c1", "a", AVERAGE.replace("PAD", "")) + conv("c2", "a"),
        "c2", {"c1", "c2"}, (),
    ),
    # The mean over what overhangs is multiplied: a value inside of the layer.
    "averages over an edge": (
        FIRST + RELU + layer("a", "Pooling", "c1", "a", AVERAGE.replace("PAD", "pad: 1")) + conv("c2", "a"),
        "c2", {"c1", "c2"}, (),
    ),
    "local responses": (
        FIRST + layer("n", "LRN", "c1", "n", WITHIN)
        + conv("c2", "n"),
        "c2", {"c1", "c2"}, (),
    ),
    # Their constants would be rounded, too.
    "a norm behind a sum": (
        FIRST + conv("c2", "data", 1) + layer("e", "Eltwise", "c1 c2", "e")
        + layer("b", "BatchNorm", "e", "e")
        + layer("k", "Scale", "e", "e", BIASED) + conv("c3", "e"),
        "c3", {"c1", "c2", "c3"}, (),
    ),
    "larger again": (
        FIRST + layer("d", "Deconvolution", "c1", "d", UP)
        + layer("m", "Pooling", "d", "m", "pooling_param { kernel_size: 2 stride: 2 }"),
        "m", {"c1", "d"}, (),
    ),
    # What has the layer's name in the exported net brings its scores into order.
    "scores of every place": (
        FIRST + layer("i", "InnerProduct", "c1", "i", PLACES),
        "i", {"c1"}, ("i",),
    ),
}  # fmt: skip


class Fixed:
    """One batch, again and again."""

    def __init__(self, batch: dict[str, torch.Tensor]) -> None:
        self.batch = batch

    def shapes(self):
        return SHAPES

    def over(self, numbers):
        return (self.batch for _ in numbers)


def begun(body: str) -> tuple[Int8Net, CaffeNet, dict[str, torch.Tensor]]:
    """The int8 form of a net, the net, and a batch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    document = parse((HEAD + body).encode(), "many.prototxt")
    net = CaffeNet(read_net(document, "TRAIN"), shapes=SHAPES, seed=1)
    rng = np.random.default_rng(0)
    batch = {
        "data": torch.from_numpy(rng.normal(size=SHAPES["data"]).astype(np.float32)),
        "label": torch.arange(4.0),
    }
    for _ in range(3):
        net.loss(batch)  # statistics
    int8 = Int8Net(net, read_net(document, "TEST"), SHAPES, batch, torch.device("cpu"))
    int8.begin(Fixed(batch), {})
    return int8, net, batch


@pytest.mark.parametrize("name", CASES)
def test_a_step_trains_every_weight_and_range_and_the_runtime_computes_the_same(name):
    body, end, rounded, floats = CASES[name]
    int8, net, batch = begun(body + END.replace("END", end))
    before = {value: scale for value, (scale, _) in int8._rounding.ranges().items()}
    loss, _ = int8.loss(batch)
    loss.backward()
    for spec, module in zip(net.definition.layers, net.layers, strict=True):
        for parameter_name, parameter in module.named_parameters():
            assert parameter.grad.abs().max() > 0, (spec.name, parameter_name)
    int8.learn(0.5)
    after = {value: scale for value, (scale, _) in int8._rounding.ranges().items()}
    for value, scale in before.items():
        # Adam's first step is the rate, whatever the gradient.
        assert abs(after[value] / scale - 1) == pytest.approx(1.5e-3, rel=0.05), value
    with torch.no_grad():
        for one in net.learnables():
            if one.tensor.grad is not None:
                one.tensor.sub_(0.01 * one.tensor.grad)
        content = int8.content()
        net.eval()
        plain = net.execute(batch, keep=["score"])["score"].numpy()
        with int8._rounding.within(net):
            trained = net.execute(int8._rounding.fed(batch), keep=["score"])["score"].numpy()
    found = Int8Model(content).run({"data": batch["data"].numpy()})["score"]
    # Values are multiples of one step. One that lies between two may fall to the other side, no farther.
    step, _ = int8._rounding.ranges()["score"]
    differs = np.abs(found - trained) / step
    assert differs.max() < 1.01
    assert (differs > 0.01).mean() <= 0.25
    assert np.abs(plain - trained).max() > 0.25 * step
    # Each value is looked at before that, and found to be rounded alike.
    proto = onnx.load_from_string(content)
    seen = int8._agreement(proto).differences
    assert len(seen) == len(int8._places.values)
    assert max(one.steps for one in seen) < 0.1
    assert layers_in_int8(proto.graph) == rounded | {"score"}
    assert int8.floats == floats


def layers_in_int8(graph: onnx.GraphProto) -> set[str]:
    """The layers whose weights are stored in int8."""
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    stored = {
        node.output[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in arrays
        and arrays[node.input[0]].dtype == np.int8
    }
    return {node.name for node in graph.node if len(node.input) > 1 and node.input[1] in stored}


@pytest.mark.parametrize("name", ["c1", "score"])
def test_values_are_rounded_before_dropout_makes_them_larger(name):
    drop = layer("drop", "Dropout", name, name)
    end = END.replace("END", "c1")
    after = end.index("layer", 1) if name == "score" else 0
    int8, net, batch = begun(FIRST + end[:after] + drop + end[after:])
    with torch.no_grad(), int8._rounding.within(net.train()):
        steps = net.walk(int8._rounding.fed(batch), keep=["score"])
        (given,) = (one.bottoms[0] for one in steps if one.spec.name == "drop")
    known = {value: scale for scale, value in int8._places.scales.items()}
    step, _ = int8._rounding.ranges()[known[f"{name}/{name}"]]
    np.testing.assert_allclose(given / step, (given / step).round(), atol=1e-3)
