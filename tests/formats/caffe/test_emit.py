"""The text of new layers: exact examples in several styles, and laws over random layers in random styles."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.formats.caffe.emit_examples import BLOCK, BLOCK_SPLIT, EXAMPLES
from tests.formats.caffe.text_oracle import as_fields, parse_text
from tests.formats.caffe.text_style import random_fields, random_value, render

from twofold.conv import ConvGeometry
from twofold.formats.caffe.emit import NewLayerText, free_name, quote, rejection, replace_layer
from twofold.formats.caffe.fields import Fields
from twofold.formats.caffe.layer_types import geometry
from twofold.formats.caffe.net import layer_messages, read_layers
from twofold.formats.caffe.prototxt import Document, comments, parse
from twofold.formats.caffe.schema import MESSAGES
from twofold.lowrank.depthwise import depthwise_chain

C_IN, RANK = 12, 6


def spatial(whole: ConvGeometry, rank: int = RANK) -> list[ConvGeometry]:
    """The vertical and the horizontal half of a convolution over images."""
    none = (0, 0)
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = whole.kernel, whole.stride, whole.pad, whole.dilation
    return [
        ConvGeometry(rank, whole.c_in, (kh, 1), (sh, 1), (ph, none), (dh, 1)),
        ConvGeometry(whole.c_out, rank, (1, kw), (1, sw), (none, pw), (1, dw)),
    ]


def tucker(whole: ConvGeometry) -> list[ConvGeometry]:
    """Three convolutions, the window in the middle one."""
    one = ConvGeometry.of
    middle = replace(whole, c_out=RANK, c_in=RANK - 1, groups=1)
    return [one(RANK - 1, whole.c_in, (1, 1)), middle, one(whole.c_out, RANK, (1, 1))]


def edit(document: Document, halves=spatial, bias: bool | None = None, which: int = 0):
    """The edit that replaces one convolution."""
    spec = [spec for spec in read_layers(document) if spec.type == "Convolution"][which]
    chain = halves(geometry(spec, 2, C_IN))
    names = [f"{spec.name}_{i}" for i in range(len(chain))]
    blobs = [spec.bottoms[0], *names[:-1], spec.tops[0]]
    had = spec.fields.message("convolution_param").flag("bias_term")
    has = [False] * (len(chain) - 1) + [had if bias is None else bias]
    new = [NewLayerText(name, *blobs[i : i + 2], chain[i], has[i]) for i, name in enumerate(names)]
    return replace_layer(document, layer_messages(document)[spec.index], new)


def split(source: bytes, **how) -> Document:
    """Replace one convolution of a text."""
    document = parse(source)
    return document.splice([edit(document, **how)])


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("indent", [b"  ", b"\t", b"    "])
def test_a_layer_over_many_lines(newline, indent):
    def styled(text: bytes) -> bytes:
        return text.replace(b"  ", indent).replace(b"\n", newline)

    assert split(styled(BLOCK)).source == styled(BLOCK_SPLIT)


@pytest.mark.parametrize("name", EXAMPLES)
def test_other_styles(name):
    before, after = EXAMPLES[name]
    assert split(before).source.decode("latin-1") == after.decode("latin-1")


def test_three_convolutions():
    fields = split(BLOCK, halves=tucker).root.to_fields()
    first, middle, last = fields.messages("layer")[:3]
    assert [layer.text("name") for layer in (first, middle, last)] == ["c_0", "c_1", "c_2"]
    assert [layer.texts("top") for layer in (first, middle, last)] == [("c_0",), ("c_1",), ("c",)]
    params = [layer.message("convolution_param") for layer in (first, middle, last)]
    assert [param.integers("kernel_size") for param in params] == [(1,), (3,), (1,)]
    assert [param.integers("pad") for param in params] == [(0,), (1,), (0,)]
    assert [param.integers("stride") for param in params] == [(1,), (2,), (1,)]


def test_a_bias_that_the_data_ask_for_is_switched_on():
    source = b"layer { name: 'c' type: 'Convolution' bottom: 'x' top: 'y' convolution_param { %s } }"
    text = split(source % b"num_output: 8 bias_term: false kernel_size: 3", bias=True).source
    assert text.count(b"bias_term: false") == 1
    assert text.endswith(b"num_output: 8 bias_term: true kernel_h: 1 kernel_w: 3 } }")


def test_a_bias_that_is_gone_takes_its_param_along():
    # Caffe refuses more param entries than a layer has blobs.
    text = split(BLOCK, bias=False)
    assert [len(layer.all("param")) for layer in text.root.to_fields().messages("layer")] == [1, 1, 0]


SHARERS = b"".join(
    b"layer { name: '%s' type: 'Convolution' bottom: 'x' top: '%s' param { name: '%s' } param { name: 'b' } "
    b"convolution_param { num_output: 8 kernel_size: 3 } }\n" % (name, name, weight)
    for name, weight in ((b"p", b"w"), (b"q", b"w"), (b"s", b"w_0"))
)


def test_sharers_of_a_weight_share_its_factors_and_no_one_else_does():
    document = parse(SHARERS)
    new = document.splice([edit(document, which=which) for which in (0, 1)])
    names = [
        [spec.text("name") for spec in layer.messages("param")]
        for layer in new.root.to_fields().messages("layer")
    ]
    # 'w_0' is taken by the third layer's weight.
    assert names == [["w_0_1"], ["w_1", "b"], ["w_0_1"], ["w_1", "b"], ["w_0", "b"]]


REFUSALS = [
    (b"bottom: 'x' bottom: 'z' top: 'y' top: 'u'", "has 2 inputs; only a convolution with one can be split"),
    (b"bottom: 'x' top: ['y', 'u']", "has 2 outputs; only a convolution with one can be split"),
    (b"name: 'c' bottom: 'x' top: 'x'", "overwrites its input; give its output a name of its own"),
    (b"bottom: 'x' top: 'y' blobs { data: 1 }", "holds its weights in the text; move them to the caffemodel"),
    (b"name: 'c' bottom: 'x' top: 'y'", None),
    (b"bottom: 'x' top: 'y'", "has no name, by which its weights would be found"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSALS)
def test_what_cannot_be_split_says_why(text, reason):
    (layer,) = layer_messages(parse(b"layer { type: 'Convolution' " + text + b" }"))
    assert rejection(layer) == reason


def test_a_v0_layer_may_be_split():
    (layer,) = layer_messages(parse(b"layers { layer { name: 'c' type: 'conv' } bottom: 'x' top: 'y' }"))
    assert rejection(layer) is None
    text = b"layers { layer { name: 'c' type: 'conv' blobs { } } bottom: 'x' top: 'y' }"
    (layer,) = layer_messages(parse(text))
    assert "holds its weights in the text" in rejection(layer)


@given(st.text().filter(lambda text: not any("\ud800" <= one <= "\udfff" for one in text)) | st.binary())
def test_quoted_strings_read_back(text):
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    for like in (b"'", b'"'):
        assert parse(b"name: " + quote(text, like)).root.to_fields().text("name") == text


def test_free_names_differ_from_all_others():
    taken = {"a_0", "a_0_1"}
    assert [free_name("a_0", taken), free_name("a_0", taken), free_name("b", taken)] == [
        "a_0_2",
        "a_0_3",
        "b",
    ]


def random_convolution(rng: random.Random) -> Fields:
    """A convolution layer that Caffe accepts, its sizes spelled in one of Caffe's ways."""
    param: dict[str, list] = {"num_output": [rng.randrange(4, 99)]}
    for name, low, high in (("kernel_size", 2, 6), ("pad", 0, 3), ("stride", 1, 4), ("dilation", 1, 3)):
        height, width = rng.randrange(low, high), rng.randrange(low, high)
        how = rng.choice(("one", "each", "pair" if name != "dilation" else "one", "none"))
        if how == "one" or (how == "none" and name == "kernel_size"):
            param[name] = [height]
        elif how == "each":
            param[name] = [height, width]
        elif how == "pair":
            stem = name.removesuffix("_size")
            param[f"{stem}_h"], param[f"{stem}_w"] = [height], [width]
    for name in ("bias_term", "weight_filler", "bias_filler", "engine", "force_nd_im2col"):
        if rng.random() < 0.4:
            param[name] = [random_value(rng, MESSAGES["ConvolutionParameter"][name])]
    layer: dict[str, list] = {"name": ["c"], "type": ["Convolution"], "bottom": ["in"], "top": ["out"]}
    blobs = 2 if param.get("bias_term", [True])[0] else 1
    layer["param"] = [random_fields(rng, "ParamSpec") for _ in range(rng.randrange(blobs + 1))]
    for name in ("include", "transform_param", "loss_weight", "propagate_down", "phase"):
        if rng.random() < 0.3:
            layer[name] = [random_value(rng, MESSAGES["LayerParameter"][name])]
    layer["convolution_param"] = [Fields("ConvolutionParameter", param)]
    order = rng.sample(list(layer), len(layer))
    return Fields("LayerParameter", {name: layer[name] for name in order if layer[name]})


WINDOW = {"num_output", "bias_term", "bias_filler", "dilation", "kernel_size", "kernel_h", "kernel_w"}
WINDOW |= {"pad", "pad_h", "pad_w", "stride", "stride_h", "stride_w", "group"}


def check_copy(original: Fields, copy: Fields, geometries: list[ConvGeometry], index: int) -> None:
    """Check one new layer's values against the original's and its geometry."""
    last = index == len(geometries) - 1
    old, new = original.message("convolution_param"), copy.message("convolution_param")
    had_bias = old.flag("bias_term")
    assert new.flag("bias_term") == (had_bias and last)
    assert new.integer("num_output") == geometries[index].c_out
    if not last:
        assert not new.has("bias_filler")
    else:
        assert new.all("bias_filler") == old.all("bias_filler")
    assert {name: value for name, value in new.values.items() if name not in WINDOW} == {
        name: value for name, value in old.values.items() if name not in WINDOW
    }
    kept = original.messages("param")[: 2 if had_bias and last else 1]
    for before, after in zip(kept, copy.messages("param"), strict=True):
        named = before.text("name") and before is kept[0]
        wanted = {"name": [before.text("name") + f"_{index}"]} if named else {}
        assert after.values == {**before.values, **wanted}
    for name in ("type", "include", "transform_param", "phase"):
        assert copy.all(name) == original.all(name)
    assert copy.all("loss_weight") == (original.all("loss_weight") if last else ())
    assert copy.all("propagate_down") == (() if index else original.all("propagate_down"))


@given(st.integers(0, 2**63), st.sampled_from([spatial, tucker]), st.booleans())
def test_new_layers_mean_what_the_original_meant(seed, halves, exotic):
    rng = random.Random(seed)
    original = random_convolution(rng)
    names = [spec.text("name") for spec in original.messages("param")]
    if len(names) == 2 and names[1].startswith(names[0]):
        return  # a bias called like the weight's factor makes them step aside; an example covers that
    others = Fields("LayerParameter", {"name": ["r"], "type": ["ReLU"], "bottom": ["out"], "top": ["out"]})
    source = render(rng, Fields("NetParameter", {"layer": [original, others]}), exotic=exotic)
    document = parse(source)
    start, end, text = edit(document, halves)
    new = document.splice([(start, end, text)])

    assert (
        new.source[:start] + new.source[len(new.source) - len(source) + end :]
        == source[:start] + source[end:]
    )
    specs = read_layers(new)
    chain = halves(geometry(read_layers(document)[0], 2, C_IN))
    assert [spec.name for spec in specs] == [*(f"c_{i}" for i in range(len(chain))), "r"]
    blobs = ["in", *(f"c_{i}" for i in range(len(chain) - 1)), "out"]
    for i, wanted in enumerate(chain):
        assert (specs[i].bottoms, specs[i].tops) == ((blobs[i],), (blobs[i + 1],))
        assert geometry(specs[i], 2, wanted.c_in) == wanted
        check_copy(original, specs[i].fields, chain, i)

    assert all_comments(text) == all_comments(source[start:end])
    if not exotic:
        assert rounded(as_fields(parse_text(new.source))) == rounded(new.root.to_fields())


def all_comments(text: bytes) -> Counter[bytes]:
    return Counter(text[slice(*span)] for span in comments(text, (0, len(text))))


def rounded(fields: Fields) -> list:
    """Values in order of name, floats in single precision."""

    def value(one):
        return rounded(one) if isinstance(one, Fields) else np.float32(one) if isinstance(one, float) else one

    return [(name, list(map(value, values))) for name, values in sorted(fields.values.items()) if values]


@pytest.mark.parametrize("engine", [b"", b" engine: CUDNN", b" engine: CAFFE"])
def test_a_depthwise_factor_gets_caffes_own_engine(engine):
    """That of cuDNN takes a handle and a stream for every group."""
    source = (
        b'layer { name: "c" type: "Convolution" bottom: "x" top: "y"'
        b" convolution_param { num_output: 8 kernel_size: 3%s } }" % engine
    )
    document = split(source, halves=lambda whole: depthwise_chain(whole, RANK))
    params = [spec.fields.message("convolution_param") for spec in read_layers(document)]
    others = engine.decode().rpartition(" ")[2] or "DEFAULT"
    assert [param.text("engine") for param in params] == [others, "CAFFE", others]
    assert [param.integer("group") for param in params] == [1, RANK, 1]
