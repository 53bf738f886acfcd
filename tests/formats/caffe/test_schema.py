"""The schema: protobuf accepts it as descriptors, and facts of the published caffe.proto hold."""

from __future__ import annotations

import pytest
from tests.formats.caffe.text_oracle import message_class

from twofold.formats.caffe.fields import Fields
from twofold.formats.caffe.schema import ENUMS, MESSAGES

KINDS = {"int32", "int64", "uint32", "float", "double", "bool", "string", "bytes", "enum", "message"}
ALL = [(message, field) for message, fields in MESSAGES.items() for field in fields.values()]


@pytest.mark.parametrize("message", MESSAGES)
def test_protobuf_takes_the_descriptors_and_gives_the_same_defaults(message):
    instance = message_class(message)()
    for field in MESSAGES[message].values():
        if field.repeated or field.type in ("message", "bytes") or field.required:
            continue
        theirs = getattr(instance, field.name)
        if field.type == "enum":
            theirs = {number: name for name, number in ENUMS[field.type_name].items()}[theirs]
        # Protobuf keeps floats in single precision, we as the text has them.
        same = field.default if isinstance(field.default, str) else pytest.approx(field.default, rel=1e-6)
        assert theirs == same, field.name


def test_every_type_is_known_and_every_number_is_used_once():
    for message, field in ALL:
        assert field.type in KINDS, (message, field.name)
        assert (field.type_name in MESSAGES) == (field.type == "message"), (message, field.name)
        assert (field.type_name in ENUMS) == (field.type == "enum"), (message, field.name)
        assert not (field.packed and not field.repeated)
    for fields in MESSAGES.values():
        numbers = [field.number for field in fields.values() if field.number]
        assert len(numbers) == len(set(numbers))


def test_only_forks_leave_a_number_open():
    assert all(field.fork for _, field in ALL if not field.number)


# (message, field, number, label and kind, default), read from BVLC/caffe at commit 9b891540.
FACTS = [
    ("NetParameter", "layer", 100, "repeated message", None),
    ("NetParameter", "layers", 2, "repeated message", None),
    ("NetParameter", "input_dim", 4, "repeated int32", None),
    ("LayerParameter", "convolution_param", 106, "message", None),
    ("LayerParameter", "batch_norm_param", 139, "message", None),
    ("LayerParameter", "phase", 10, "enum", "TRAIN"),
    ("V1LayerParameter", "param", 1001, "repeated string", None),
    ("V1LayerParameter", "blob_share_mode", 1002, "repeated enum", None),
    ("V1LayerParameter", "layer", 1, "message", None),
    ("V0LayerParameter", "blobs", 50, "repeated message", None),
    ("V0LayerParameter", "biasterm", 4, "bool", True),
    ("BlobProto", "data", 5, "packed float", None),
    ("BlobShape", "dim", 1, "packed int64", None),
    ("Datum", "float_data", 6, "repeated float", None),
    ("ConvolutionParameter", "bias_term", 2, "bool", True),
    ("ConvolutionParameter", "pad", 3, "repeated uint32", None),
    ("ConvolutionParameter", "group", 5, "uint32", 1),
    ("ConvolutionParameter", "dilation", 18, "repeated uint32", None),
    ("ConvolutionParameter", "axis", 16, "int32", 1),
    ("PoolingParameter", "round_mode", 13, "enum", "CEIL"),
    ("LRNParameter", "beta", 3, "float", 0.75),
    ("ClipParameter", "max", 2, "required float", None),
    ("FillerParameter", "type", 1, "string", "constant"),
    ("NetState", "phase", 1, "enum", "TEST"),
    ("SolverParameter", "solver_mode", 17, "enum", "GPU"),
    ("SolverParameter", "momentum2", 39, "float", 0.999),
    ("SolverParameter", "weights", 42, "repeated string", None),
    ("LossParameter", "normalization", 3, "enum", "VALID"),
    ("BatchNormParameter", "moving_average_fraction", 2, "float", 0.999),
]


@pytest.mark.parametrize(("message", "name", "number", "how", "default"), FACTS)
def test_facts_of_bvlc_caffe(message, name, number, how, default):
    field = MESSAGES[message][name]
    labels = [label for label in ("packed", "repeated", "required") if getattr(field, label)][:1]
    assert (field.number, " ".join([*labels, field.type]), field.fork) == (number, how, False)
    if default is not None:
        assert field.default == default


def test_facts_of_the_ssd_fork():
    numbers = {field.name: field.number for field in MESSAGES["LayerParameter"].values() if field.fork}
    assert numbers.items() >= {
        "permute_param": 202, "prior_box_param": 203, "detection_output_param": 204, "norm_param": 206,
    }.items()  # fmt: skip
    assert MESSAGES["NonMaximumSuppressionParameter"]["nms_threshold"].default == 0.3


def test_every_v1_layer_type_has_its_number():
    types = ENUMS["LayerType"]
    assert sorted(types.values()) == list(range(40))
    assert (types["CONVOLUTION"], types["DECONVOLUTION"], types["RELU"]) == (4, 39, 18)


def test_fields_give_the_defaults():
    fields = Fields("ConvolutionParameter")
    assert fields.flag("bias_term") is True
    assert fields.text("engine") == "DEFAULT"
    assert fields.message("weight_filler").text("type") == "constant"
    with pytest.raises(KeyError, match="Bug: ConvolutionParameter has no field bias"):
        fields.flag("bias")
