"""Nets as Caffe opens them: phases, levels, stages, old formats, and what it rejects."""

from __future__ import annotations

import pytest

from twofold.errors import FormatError, ModelError
from twofold.formats.caffe.fields import Fields
from twofold.formats.caffe.net import NetDefinition, layer_messages, read_layers, read_net
from twofold.formats.caffe.prototxt import parse
from twofold.formats.caffe.schema import ENUMS, MESSAGES
from twofold.formats.caffe.shapes import infer_shapes
from twofold.formats.caffe.upgrade import V0_TYPES, V1_TYPES
from twofold.formats.caffe.upgrade_text import as_v1, is_v0


def net(text: str, *args, **kwargs) -> NetDefinition:
    return read_net(parse(text.encode(), "net.prototxt"), *args, **kwargs)


def kept(rules: str, head: str = "", **options) -> bool:
    """Whether a layer with these rules is part of the net."""
    return bool(net(f'{head} layer {{ name: "a" type: "Input" top: "a" {rules} }}', **options).layers)


@pytest.mark.parametrize(
    ("rules", "options", "expected"),
    [
        ("", {}, True),
        ("phase: TRAIN", {}, True),  # the layer's own phase field filters nothing
        ("include { phase: TRAIN }", {}, False),
        ("include { phase: TRAIN }", {"phase": "TRAIN"}, True),
        ("include { phase: TRAIN } include { phase: TEST }", {}, True),
        ("exclude { phase: TEST }", {}, False),
        ("exclude { phase: TRAIN } exclude { phase: TEST }", {}, False),
        ("include { }", {}, True),
        ("exclude { }", {}, False),
        ("include { min_level: 1 }", {}, False),
        ("include { min_level: 1 }", {"level": 1}, True),
        ("include { max_level: 1 }", {"level": 2}, False),
        ("include { min_level: -1 max_level: 0 }", {}, True),
        ('include { stage: "a" }', {}, False),
        ('include { stage: "a" }', {"stages": ["a", "b"]}, True),
        ('include { stage: "a" stage: "b" }', {"stages": ["a"]}, False),
        ('include { stage: "a" not_stage: "b" }', {"stages": ["a", "b"]}, False),
        ('exclude { not_stage: "b" }', {}, False),
        ('include { phase: TEST min_level: 3 stage: "x" }', {"level": 3, "stages": ["x"]}, True),
    ],
)
def test_rules(rules, options, expected):
    assert kept(rules, **options) is expected


def test_the_states_of_file_and_caller_are_joined():
    """Phase and level of the caller win; stages add up."""
    assert kept('include { stage: "mine" stage: "theirs" }', 'state { stage: "mine" }', stages=["theirs"])
    assert not kept("include { phase: TRAIN }", "state { phase: TRAIN }")
    assert not kept("include { min_level: 2 }", "state { level: 2 }")


def test_include_and_exclude_together_are_refused():
    with pytest.raises(FormatError, match=r"net\.prototxt:1:8: layer 'a' has both include and exclude"):
        kept("include { phase: TEST } exclude { phase: TRAIN }")


def test_legacy_inputs_become_an_input_layer_in_front():
    text = 'layer { name: "r" type: "ReLU" bottom: "b" top: "b" }\n'
    text += 'input: "a" input: "b" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4\n'
    text += "input_dim: [5, 6, 7, 8]\n"
    found = net(text)
    assert [(layer.name, layer.type, layer.tops) for layer in found.layers] == [
        ("input", "Input", ("a", "b")),
        ("r", "ReLU", ("b",)),
    ]
    assert infer_shapes(found) == {"a": (1, 2, 3, 4), "b": (5, 6, 7, 8)}
    shaped = net('input: "a" input_shape { dim: 3 dim: 4 } input_dim: 9')
    assert infer_shapes(shaped) == {"a": (3, 4)}


def test_an_input_without_a_shape_is_unknown():
    assert infer_shapes(net('input: "a" input_dim: [1, 2, 3]')) == {"a": None}


def test_index_counts_the_layers_of_the_text():
    text = 'input: "x" input_dim: [1, 1, 2, 2]\n'
    text += 'layer [ { name: "one" type: "ReLU" bottom: "x" top: "p" include { phase: TRAIN } },\n'
    text += '  < name: "two" type: "ReLU" bottom: "x" top: "q" > ]\n'
    document = parse(text.encode(), "n")
    (_, two) = read_net(document).layers
    assert (two.name, two.index, two.where) == ("two", 1, "n:3:3")
    assert document.text(layer_messages(document)[two.index].span).startswith(b"< name")
    assert [layer.name for layer in read_layers(document)] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            'layer { name: "a" type: "ReLU" bottom: "x" top: "y" }',
            r"1:7: layer 'a' reads blob 'x'.*phase TEST",
        ),
        ('layer { name: "a" top: "y" }', "layer 'a' has no type"),
        (
            'input: "x" input: "x"',
            "produces blob 'x', which layer 'input' produces already",
        ),
        (
            'input: "x"\nlayer { name: "a" type: "ReLU" bottom: "x" top: "y" }\n'
            'layer { name: "b" type: "ReLU" bottom: "x" top: "y" }',
            r"3:7: layer 'b' produces blob 'y', which layer 'a' produces already",
        ),
        (
            'input: "x"\nlayer { name: "a" type: "Split" bottom: "x" top: "y" top: "x" }',
            "layer 'a' produces blob 'x'",  # not the bottom of the same place, so not in place
        ),
        ('input: "x" layer { name: "a" type: "AbsVal" bottom: "x" top: "x" }', "cannot work in place"),
    ],
)
def test_blobs_that_do_not_connect(text, reason):
    with pytest.raises(ModelError, match=f"net.prototxt.*{reason}"):
        net(text)


def test_ages_are_not_mixed():
    with pytest.raises(FormatError, match=r"^net.prototxt:3:1: .* 'layers' .* in line 2 a 'layer'"):
        net('\nlayer { name: "a" type: "ReLU" }\nlayers { name: "b" type: RELU }\nlayers { } layer { }')


def test_old_batch_norms_lose_their_multipliers():
    text = 'input: "x" layer { name: "b" type: "BatchNorm" bottom: "x" top: "y" %s }'
    assert not net(text % ("param { lr_mult: 0 } " * 3)).layer("b").fields.has("param")
    assert len(net(text % ("param { lr_mult: 0 } " * 2)).layer("b").fields.all("param")) == 2


def test_an_unknown_layer_is_answered_with_the_known_ones():
    with pytest.raises(ModelError, match="no layer 'z'; it has a"):
        net('layer { name: "a" type: "Input" top: "a" }').layer("z")


# V1


def test_every_v1_type_has_a_v2_name():
    assert set(V1_TYPES) == set(ENUMS["LayerType"])


def test_v1_fields_become_those_of_v2():
    text = """
    input: "x"
    layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" blobs_lr: 1 blobs_lr: 2 weight_decay: 3
      param: "w" blob_share_mode: PERMISSIVE loss_weight: 4 include { phase: TEST }
      convolution_param { num_output: 5 kernel_size: 3 } }
    layers { name: "d" type: DATA top: "d" data_param { source: "s" scale: 0.5 mean_file: "m" crop_size: 7
      mirror: true batch_size: 2 } transform_param { mean_value: 1 } }
    """
    found = net(text)
    conv, data = found.layer("c"), found.layer("d")
    assert (conv.type, data.type) == ("Convolution", "Data")
    assert conv.fields.type == "LayerParameter"
    first, second = conv.fields.messages("param")
    assert first == Fields(
        "ParamSpec", {"name": ["w"], "share_mode": ["PERMISSIVE"], "lr_mult": [1.0], "decay_mult": [3.0]}
    )
    assert (second.number("lr_mult"), second.number("decay_mult")) == (2.0, 1.0)
    assert conv.fields.numbers("loss_weight") == (4.0,)
    assert conv.fields.message("convolution_param").integer("num_output") == 5
    transform = data.fields.message("transform_param")
    assert (transform.number("scale"), transform.text("mean_file")) == (0.5, "m")
    assert (transform.integer("crop_size"), transform.flag("mirror")) == (7, True)
    assert transform.numbers("mean_value") == (1.0,)
    assert not data.fields.message("data_param").has("scale")
    assert data.fields.message("data_param").integer("batch_size") == 2


def test_v1_types_of_forks_keep_their_names():
    assert net('input: "x" layers { name: "b" type: BN bottom: "x" top: "b" }').layer("b").type == "BN"


# V0

V0 = """
name: "old"
input: "data"
input_dim: 2 input_dim: 3 input_dim: 11 input_dim: 11
layers { layer { name: "pad1" type: "padding" pad: 2 } bottom: "data" top: "pad1" }
layers {
  layer {
    name: "conv1" type: "conv" num_output: 8 kernelsize: 5 stride: 2 group: 1
    weight_filler { type: "gaussian" std: 0.01 }
    blobs_lr: 1. blobs_lr: 2. weight_decay: 1. weight_decay: 0.
  }
  bottom: "pad1" top: "conv1"
}
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "pool1" type: "pool" pool: AVE kernelsize: 3 stride: 2 } bottom: "conv1" top: "pool1" }
layers { layer { name: "norm1" type: "lrn" local_size: 3 alpha: 0.1 beta: 0.5 } bottom: "pool1" top: "norm1" }
layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.3 } bottom: "norm1" top: "norm1" }
layers { layer { name: "fc" type: "innerproduct" num_output: 4 bias_filler { value: 1 } }
  bottom: "norm1" top: "fc" }
layers { layer { name: "prob" type: "softmax" } bottom: "fc" top: "prob" }
"""


def test_v0_is_understood():
    found = net(V0)
    assert [(layer.name, layer.type) for layer in found.layers] == [
        ("input", "Input"), ("conv1", "Convolution"), ("relu1", "ReLU"), ("pool1", "Pooling"),
        ("norm1", "LRN"), ("drop", "Dropout"), ("fc", "InnerProduct"), ("prob", "Softmax"),
    ]  # fmt: skip
    conv = found.layer("conv1")
    assert conv.bottoms == ("data",)
    param = conv.fields.message("convolution_param")
    assert (param.integers("pad"), param.integers("kernel_size"), param.integers("stride")) == (
        (2,),
        (5,),
        (2,),
    )
    assert param.flag("bias_term")
    assert param.message("weight_filler").number("std") == 0.01
    assert [p.number("decay_mult") for p in conv.fields.messages("param")] == [1.0, 0.0]
    pool = found.layer("pool1").fields.message("pooling_param")
    assert (pool.text("pool"), pool.integer("kernel_size"), pool.integer("stride")) == ("AVE", 3, 2)
    assert found.layer("norm1").fields.message("lrn_param").number("beta") == 0.5
    assert found.layer("drop").fields.message("dropout_param").number("dropout_ratio") == 0.3
    fc = found.layer("fc").fields.message("inner_product_param")
    assert fc.message("bias_filler").number("value") == 1
    assert infer_shapes(found)["conv1"] == (2, 8, 6, 6)
    assert infer_shapes(found)["prob"] == (2, 4)


def test_v0_indices_count_padding_layers():
    document = parse(V0.encode())
    (_, conv, *_) = read_net(document).layers
    assert b'"conv1"' in document.text(layer_messages(document)[conv.index].span)


@pytest.mark.parametrize("listed", [False, True])
def test_v0_as_v1_is_the_same_net(listed):
    text = V0.replace('"old"', '"old" # kept')
    if listed:
        text = """input: "x" layers: [
          { layer { name: "a" type: "relu" } bottom: "x" top: "y" # kept
          },
          { layer { name: 'd"q' type: "dropout" dropout_ratio: 0.0001 } bottom: "y" top: "z" }]"""
    document = parse(text.encode())
    written = as_v1(document)
    assert not is_v0(written)
    assert b"# kept" in written.source

    def told(of):
        return [(s.name, s.type, s.bottoms, s.tops, s.fields.values) for s in read_net(of).layers]

    assert told(written) == told(document)


def test_v0_data_layers_move_to_transform_param():
    text = """layers { layer { name: "d" type: "data" source: "s" batchsize: 4 scale: 0.5 meanfile: "m"
      cropsize: 8 mirror: true rand_skip: 3 } top: "d" top: "label" }"""
    data = net(text).layer("d").fields
    assert data.message("data_param").integer("batch_size") == 4
    assert data.message("data_param").integer("rand_skip") == 3
    transform = data.message("transform_param")
    assert (transform.number("scale"), transform.text("mean_file"), transform.integer("crop_size")) == (
        0.5,
        "m",
        8,
    )
    window = """layers { layer { name: "w" type: "window_data" source: "s" det_fg_threshold: 0.6
      det_crop_mode: "square" } top: "d" }"""
    param = net(window).layer("w").fields.message("window_data_param")
    assert (param.number("fg_threshold"), param.text("crop_mode")) == (pytest.approx(0.6), "square")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            'layers { layer { name: "a" type: "nope" } top: "a" }',
            "unknown V0 layer type 'nope'; Caffe knows accuracy",
        ),
        (
            'layers { layer { name: "p" type: "padding" pad: 1 } bottom: "data" top: "p" }\n'
            'layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }',
            "'r' .*takes a V0 padding layer",
        ),
        ('layers { layer { name: "p" type: "padding" pad: 1 } bottom: "data" }', "padding"),
        ('layers { layer { name: "p" type: "padding" pad: 1 } top: "x" }', "padding"),
    ],
)
def test_v0_that_cannot_be_read(text, reason):
    last = 2 + text.count("\n")
    with pytest.raises((FormatError, ModelError), match=f"^net.prototxt:{last}:8: .*{reason}"):
        net('input: "data" input_dim: [1, 1, 4, 4]\n' + text)


def test_every_field_that_v0_moves_exists():
    fields = (
        "num_output: 1 biasterm: false pad: 1 kernelsize: 1 group: 1 stride: 1 pool: AVE dropout_ratio: 0.1 "
        'local_size: 1 alpha: 1 beta: 1 k: 1 source: "s" batchsize: 1 rand_skip: 1 shuffle_images: true '
        "new_height: 1 new_width: 1 concat_dim: 1 det_fg_threshold: 1 det_bg_threshold: 1 det_fg_fraction: 1 "
        'det_context_pad: 1 det_crop_mode: "warp" scale: 1 meanfile: "m" cropsize: 1 mirror: true '
        "weight_filler { } bias_filler { } blobs_lr: 1"
    )
    for kind in V0_TYPES:
        text = f'layers {{ layer {{ name: "a" type: "{kind}" {fields} }} bottom: "data" top: "b" }}'
        for layer in net('input: "data"' + text).layers[1:]:
            for name in layer.fields.values:
                for message in layer.fields.messages(name):
                    assert set(message.values) <= set(MESSAGES[message.type]), (kind, name)
