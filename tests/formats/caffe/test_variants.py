"""Fields and values of forks: computed as their forks do, or never computed, decomposed or overlooked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.caffe_torch.nets import layer_text, net
from tests.small import assert_close, image, opencv, write

import twofold
from twofold.caffe_onnx import registry as onnx_types
from twofold.caffe_torch import to_torch
from twofold.calibration.runners import runner_for
from twofold.conv import Skipped
from twofold.errors import ModelError, PlanError
from twofold.formats.caffe.caffemodel import NewLayer, create_weights
from twofold.formats.caffe.net import read_layers
from twofold.formats.caffe.prototxt import parse
from twofold.formats.caffe.shapes import infer_shapes

torch = pytest.importorskip("torch")
CONV = "convolution_param { num_output: 4 kernel_size: 3 EXTRA }"
POOL = "pooling_param { kernel_size: 3 stride: 2 EXTRA }"

#: type, parameters, and what is not known of them
STRANGE = {
    "field": ("Convolution", CONV.replace("EXTRA", "pad_type: SAME"), "convolution_param.pad_type: SAME"),
    "side pads beside pad": (
        "Convolution", CONV.replace("EXTRA", "pad: 1 pad_r: 2"), "convolution_param.pad_r beside pad",
    ),
    "two dilations": (
        "Convolution", CONV.replace("EXTRA", "hole: 2 dilation: 2"), "convolution_param.hole beside dilation",
    ),
    "hole elsewhere": ("Deconvolution", CONV.replace("EXTRA", "hole: 2"), "convolution_param.hole: 2"),
    "pad elsewhere": ("Im2col", CONV.replace("EXTRA", "pad_l: 1"), "convolution_param.pad_l: 1"),
    "depthwise": ("DepthwiseConvolution", CONV.replace("EXTRA", "pad_t: 1"), "convolution_param.pad_t: 1"),
    "pooling pad": ("Pooling", POOL.replace("EXTRA", "pad_l: 1"), "pooling_param.pad_l: 1"),
    "pooling method": ("Pooling", POOL.replace("EXTRA", "pool: L2"), "pooling_param.pool: L2"),
    "two roundings": (
        "Pooling", POOL.replace("EXTRA", "ceil_mode: true round_mode: FLOOR"),
        "pooling_param.ceil_mode beside round_mode",
    ),
    "moving": (
        "BatchNorm", "batch_norm_param { moving_average: true }", "batch_norm_param.moving_average: true",
    ),
    "eltwise": ("Eltwise", "eltwise_param { operation: SUB }", "eltwise_param.operation: SUB"),
    "relu": ("ReLU", "relu_param { max_value: 6 }", "relu_param.max_value: 6"),
    "message": ("ReLU6", "relu6_param { threshold: 4 }", "relu6_param {...}"),
    "prelu": ("PReLU", "prelu_param { shared_axes: [2, 3] }", "prelu_param.shared_axes: [2, 3]"),
    "concat": ("Concat", 'concat_param { axis: 1 mode: "pad" }', 'concat_param.mode: "pad"'),
    "softmax": ("Softmax", "softmax_param { temperature: 2.0 }", "softmax_param.temperature: 2.0"),
    "dropout": ("Dropout", "dropout_param { scale_train: false }", "dropout_param.scale_train: false"),
    "scale": ("Scale", "scale_param { min_value: 0 }", "scale_param.min_value: 0"),
    "deep": (
        "DetectionOutput", "detection_output_param { nms_param { soft: true } }",
        "detection_output_param.nms_param.soft: true",
    ),
    "layer": ("TanH", "saturate: 3", "saturate: 3"),
}  # fmt: skip
#: What changes how a layer is run or trained, and no number.
PLAIN = {
    "engine": ("Convolution", CONV.replace("EXTRA", "engine: MKLDNN")),
    "algorithms": ("Convolution", CONV.replace("EXTRA", 'conv_algos_override: "0,0,0"')),
    "filler": ("Convolution", CONV.replace("EXTRA", 'weight_filler { type: "xavier" seed: 3 }')),
    "training": ("Convolution", CONV.replace("EXTRA", "") + " param { lr_mult: 1 momentum: 2 }"),
    "precision": ("ReLU", "forward_type: FLOAT16"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_layer_of_unknown_meaning_is_never_computed(name):
    kind, params, unknown = STRANGE[name]
    built = net(layer_text(kind, (2, 4, 8, 8), params))
    spec = built.definition.layers[-1]
    assert (spec.unknown, spec.known_type) == ((unknown,), "")
    assert infer_shapes(built.definition)["y0"] is None
    with pytest.raises(ModelError, match="of which it is not known what it does") as caught:
        built(torch.ones(2, 4, 8, 8))
    assert unknown in str(caught.value)
    if kind in onnx_types.known_types():
        with pytest.raises(ModelError, match="of which it is not known what it does"):
            onnx_types.EMITTERS.of(spec)


@pytest.mark.parametrize("name", PLAIN)
def test_what_changes_no_number_does_not_matter(name):
    kind, params = PLAIN[name]
    built = net(layer_text(kind, (2, 4, 8, 8), params))
    assert built.definition.layers[-1].unknown == ()
    built(torch.ones(2, 4, 8, 8))


def test_fields_of_v1_layers_are_unknown_alike():
    text = b"""layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" blobs_lr: 1
      convolution_param { num_output: 4 kernel_size: 3 pad_type: SAME } }
    layers { name: "p" type: POOLING bottom: "c" top: "p" pooling_param { kernel_size: 2 ceil_mode: false } }
    layers { name: "n" type: BN bottom: "p" top: "n" bn_param { mode: X } }"""
    conv, pool, norm = read_layers(parse(text))
    assert (conv.known_type, conv.unknown) == ("", ("convolution_param.pad_type: SAME",))
    assert pool.known_type == "Pooling"
    assert norm.type == "BN"


def test_a_layer_of_the_users_own_may_have_any_fields():
    from twofold.caffe_torch import register, register_stateless, unregister
    from twofold.caffe_torch.registry import BUILDERS

    own = BUILDERS["AbsVal"]
    unregister("AbsVal")
    try:
        register_stateless("AbsVal")(lambda spec: torch.neg)
        built = net(layer_text("AbsVal", (2,), "abs_param { sign: -1 }"))
        assert built(torch.ones(2))["y0"].tolist() == [-1, -1]
    finally:
        unregister("AbsVal")
        register("AbsVal")(own)


HEAD = """layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 3 dim: 17 dim: 16 } } }
"""


def conv(name: str, bottom: str, more: str) -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        f"convolution_param {{ num_output: 16 kernel_size: 3 {more} }} }}\n"
    )


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def run(files: list[str], x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        (out,) = to_torch(twofold.load(*files)).eval()(torch.from_numpy(x)).values()
    return out.numpy()


def exported(files: list[str], folder: Path, x: np.ndarray) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    twofold.export(twofold.load(*files), folder / "net.onnx")
    session = onnxruntime.InferenceSession(str(folder / "net.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {"data": x})[0]


@pytest.mark.parametrize(
    "params",
    ["pool: MAX ceil_mode: false", "pool: AVE pad: 1 ceil_mode: false", "pool: MAX ceil_mode: true",
     "pool: AVE ceil_mode: false"],
)  # fmt: skip
def test_pooling_rounds_down_where_a_fork_says_so_as_in_opencv(tmp_path, params):
    text = HEAD + conv("one", "data", "pad: 1")
    text += (
        'layer { name: "p" type: "Pooling" bottom: "one" top: "p" '
        f"pooling_param {{ {params} kernel_size: 2 stride: 2 }} }}"
    )
    files, x = write(tmp_path, text, {"one": [values(16, 3, 3, 3), values(16)]}), image(1, 3, 17, 16)
    (wanted,) = opencv(*files, x, "p")
    assert_close(run(files, x), wanted)
    assert_close(exported(files, tmp_path, x), wanted)


@pytest.mark.parametrize(
    ("fork", "plain"), [("hole: 2 pad: 2", "dilation: 2 pad: 2"), ("hole_h: 2 hole_w: 1", None)]
)
def test_deeplabs_holes_are_a_dilation(tmp_path, fork, plain):
    weight, x = values(16, 3, 3, 3), image(1, 3, 17, 16)
    files = write(tmp_path, HEAD + conv("one", "data", fork + " bias_term: false"), {"one": [weight]})
    if plain is None:
        spread = np.zeros((16, 3, 5, 3), np.float32)
        spread[:, :, ::2] = weight
        wanted = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(spread)).numpy()
    else:
        text = HEAD + conv("one", "data", plain + " bias_term: false")
        (tmp_path / "plain").mkdir()
        (wanted,) = opencv(*write(tmp_path / "plain", text, {"one": [weight]}), x, "one")
    assert_close(run(files, x), wanted)
    assert_close(exported(files, tmp_path, x), wanted)


SIDES = "stride: 2 pad_l: 0 pad_r: 1 pad_t: 2 pad_b: 1"


def test_each_side_has_its_own_pad(tmp_path):
    blobs = [values(16, 3, 3, 3), values(16)]
    files, x = write(tmp_path, HEAD + conv("one", "data", SIDES), {"one": blobs}), image(1, 3, 17, 16)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 1), (0, 1))).astype(np.float64)
    weight, bias = (torch.from_numpy(blob.astype(np.float64)) for blob in blobs)
    wanted = torch.nn.functional.conv2d(torch.from_numpy(padded), weight, bias, stride=2).numpy()
    assert infer_shapes(twofold.load(*files).net())["one"] == wanted.shape
    assert_close(run(files, x), wanted)
    assert_close(exported(files, tmp_path, x), wanted)


@pytest.mark.parametrize("scheme", ["spatial", "channel"])
@pytest.mark.parametrize("more", [SIDES, "hole_h: 2 hole_w: 3 pad: 2", "hole: 2 pad_l: 2"])
def test_factors_have_the_pads_and_holes_of_their_layer(tmp_path, scheme, more):
    text, x = HEAD.replace("dim: 3", "dim: 16") + conv("one", "data", more), image(1, 16, 17, 16)
    files = write(tmp_path, text, {"one": [values(16, 16, 3, 3), values(16)]})
    full = twofold.decompose(twofold.load(*files), ranks={"one": "full"}, schemes=scheme, no_data=True)
    full.model.save(tmp_path / "new.prototxt", tmp_path / "new.caffemodel")
    wanted = run(files, x)
    assert_close(run([str(tmp_path / "new.prototxt"), str(tmp_path / "new.caffemodel")], x), wanted)
    assert len(read_layers(full.model.definition)) == 3


def test_nvcaffes_batch_norm_has_scale_and_shift_as_in_opencv(tmp_path):
    text = HEAD + conv("one", "data", "pad: 1")
    text += (
        'layer { name: "bn" type: "BatchNorm" bottom: "one" top: "bn" '
        "batch_norm_param { scale_bias: true eps: 1e-3 } }"
    )
    five = [values(16), values(16) ** 2 + 0.5, np.ones(1), values(16) + 1, values(16) - 2]
    (tmp_path / "net.prototxt").write_text(text)
    layers = [
        NewLayer("one", "Convolution", [values(16, 3, 3, 3), values(16)]),
        NewLayer("bn", "BatchNorm", five),
    ]
    with (tmp_path / "net.caffemodel").open("wb") as stream:
        create_weights(layers).write(stream)
    files, x = [str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel")], image(1, 3, 17, 16)
    (wanted,) = opencv(*files, x, "bn")
    assert_close(run(files, x), wanted)
    assert_close(exported(files, tmp_path, x), wanted)
    # Without the field, five blobs are of unknown meaning.
    Path(files[0]).write_text(text.replace("scale_bias: true", ""))
    with pytest.raises(ModelError, match=r"hold 5 blobs, the definition needs 3.*scale_bias: true"):
        run(files, x)
    # The statistics of batches move in a way of their own, which is not known.
    Path(files[0]).write_text(text)
    with pytest.raises(ModelError, match="use_global_stats: true"):
        to_torch(twofold.load(*files), "TRAIN").train()(torch.from_numpy(x))


ELTWISE = """layer { name: "low" type: "Sigmoid" bottom: "one" top: "low" }
layer { name: "e" type: "Eltwise" bottom: "one" bottom: "low" top: "e" eltwise_param { operation: DIV } }
"""


def test_eltwise_divides_the_first_by_the_others(tmp_path):
    text = HEAD + conv("one", "data", "pad: 1") + ELTWISE
    files, x = write(tmp_path, text), image(1, 3, 17, 16)
    with torch.no_grad():
        found = to_torch(twofold.load(*files)).eval()(torch.from_numpy(x), blobs=("one",))
    one = found["one"].double().numpy()
    assert_close(run(files, x), one * (1 + np.exp(-one)))
    assert_close(exported(files, tmp_path, x), one * (1 + np.exp(-one)))
    (tmp_path / "net.prototxt").write_text(text.replace("DIV", "DIV coeff: 1 coeff: -1"))
    with pytest.raises(ModelError, match="coefficients are for SUM"):
        run(files, x)


def test_a_convolution_of_unknown_meaning_costs_itself_alone(tmp_path):
    """It is listed with the reason, kept byte for byte, named once, and what is before it is calibrated."""
    odd = [conv(name, bottom, "pad: 1 pad_type: SAME") for name, bottom in (("odd", "two"), ("odder", "odd"))]
    text = HEAD + conv("one", "data", "pad: 1") + conv("two", "one", "pad: 1") + "".join(odd)
    blobs = {name: [values(16, 16, 3, 3), values(16)] for name in ("two", "odd", "odder")}
    files = write(tmp_path, text, {"one": [values(16, 3, 3, 3), values(16)], **blobs})
    model = twofold.load(*files)
    skipped = [layer for layer in model.convolutions() if isinstance(layer, Skipped)]
    assert [(layer.name, layer.geometry, layer.macs) for layer in skipped] == [
        ("odd", None, None),
        ("odder", None, None),
    ]
    assert all(
        "convolution_param.pad_type: SAME, of which it is not known" in layer.reason for layer in skipped
    )
    (counted,) = [note for note in model.notes if "never decomposed" in note]
    assert "Convolution with convolution_param.pad_type: SAME (2 layers: 'odd', 'odder')" in counted
    (field,) = [note for note in model.notes if "field 'pad_type'" in note]
    assert field.endswith("(2 times, here first)")
    result = twofold.decompose(model, ranks={"two": 8}, multiple=4)
    assert any("'two' inside of the net stand" in note for note in result.plan.notes)
    assert result.model.definition.source.endswith("".join(odd).encode())


def test_a_budget_out_of_reach_names_what_stops_calibration(tmp_path):
    odd = 'layer { name: "odd" type: "Odd" bottom: "one" top: "odd" }\n'
    files = write(
        tmp_path,
        HEAD + conv("one", "data", "pad: 1") + odd + conv("two", "odd", "pad: 1"),
        {"one": [values(16, 3, 3, 3), values(16)], "two": [values(16, 16, 3, 3), values(16)]},
    )
    with pytest.raises(PlanError, match=r"'odd' of the unknown type 'Odd'.*no_data=True"):
        twofold.decompose(twofold.load(*files), params=0.3, multiple=4)
    (two,) = [layer for layer in twofold.load(files[0]).convolutions() if layer.name == "two"]
    assert "since it depends on layer 'odd' (Odd), which gives blobs of unknown shape" in two.reason


def test_a_mask_is_no_output_to_protect(tmp_path):
    pool = (
        'layer { name: "p" type: "Pooling" bottom: "one" top: "p" top: "mask" '
        "pooling_param { kernel_size: 2 stride: 2 } }\n"
    )
    odd = 'layer { name: "odd" type: "Odd" bottom: "p" bottom: "mask" top: "odd" }\n'
    text = HEAD + conv("one", "data", "pad: 1") + pool + odd
    runner = runner_for(twofold.load(*write(tmp_path, text, {"one": [values(16, 3, 3, 3), values(16)]})))
    assert runner.outputs == ("p",)
    assert runner.stopped == ("layer 'odd' of the unknown type 'Odd' cannot be run",)


def test_an_unknown_layer_in_place_costs_what_is_behind_it(tmp_path):
    odd = 'layer { name: "odd" type: "Odd" bottom: "two" top: "two" }\n'
    text = (
        HEAD + conv("one", "data", "pad: 1") + conv("two", "one", "pad: 1") + odd + conv("three", "two", "")
    )
    blobs = {name: [values(16, 16, 3, 3), values(16)] for name in ("two", "three")}
    model = twofold.load(*write(tmp_path, text, {"one": [values(16, 3, 3, 3), values(16)], **blobs}))
    runner = runner_for(model)
    assert runner.outputs == ("two",)
    x = image(1, 3, 17, 16)
    with torch.no_grad():
        until = to_torch(model, until="two").eval()(torch.from_numpy(x))["two"]
    assert_close(runner.run({"data": x})["two"], until.numpy())
