"""The text reader against Caffe's recorded verdicts, protobuf's own parser, and random text."""

from __future__ import annotations

import contextlib
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.formats.caffe.text_oracle import as_fields, parse_text
from tests.formats.caffe.text_style import random_fields, render

from twofold.errors import FormatError, TwofoldError
from twofold.formats.caffe.fields import Fields
from twofold.formats.caffe.net import read_net
from twofold.formats.caffe.prototxt import apply_edits, comments, parse
from twofold.formats.caffe.tree import Field, Message, Scalar

PROBES = Path(__file__).parents[2] / "data/caffe/prototxt"
VERDICTS = json.loads((PROBES / "verdicts.json").read_text("utf-8"))
ACCEPTED = [name for name, verdict in VERDICTS.items() if verdict["caffe"]]
REFUSED = [name for name, verdict in VERDICTS.items() if verdict["stage"] in ("parse", "upgrade")]

#: What Caffe's parser refuses and we read, with the note that says so.
READ_ANYWAY = {
    "unknown_layer_param": "unknown_layer_param:3:39: field 'my_fork_param' of LayerParameter is unknown",
    "solver_text_as_net": "solver_text_as_net:1:1: field 'base_lr' of NetParameter is unknown",
    "v1_type_unknown": "v1_type_unknown:1:71: value 'BATCHNORM' of 'type' is unknown",
}
#: Where we point elsewhere than Caffe does: to the beginning of what is wrong instead of the end.
OWN_POSITION = {
    "clip_required_missing": "4:73",
    "dup_singular_msg": "1:212",
    "enum_negative": "3:120",
    "enum_number_unknown": "3:120",
    "extension_syntax": "4:1",
    "multiline_string": "1:7",
    "string_single_unclosed": "1:7",
    "v1_v2_mixed": "",
}


def probe(name: str) -> bytes:
    return (PROBES / f"{name}.prototxt").read_bytes()


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_caffe_accepts_means_the_same(name):
    document = parse(probe(name), name)
    net = read_net(document)
    assert [layer.name for layer in net.layers] == VERDICTS[name]["names"]
    assert [layer.type for layer in net.layers] == VERDICTS[name]["types"]
    assert document.source == probe(name)
    assert document.notes == ()


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in READ_ANYWAY])
def test_what_caffe_refuses_is_refused_at_its_place(name):
    with pytest.raises(FormatError) as caught:
        read_net(parse(probe(name), name))
    line, column = VERDICTS[name]["error"].split(":")[:2]
    assert str(caught.value).startswith(f"{name}:" + OWN_POSITION.get(name, f"{line}:{column}: "))


@pytest.mark.parametrize("name", READ_ANYWAY)
def test_harmless_deviations_are_read_kept_and_noted(name):
    document = parse(probe(name), name)
    (note,) = [note for note in document.notes if note.startswith(READ_ANYWAY[name])]
    assert note.endswith("it is kept")
    assert document.source == probe(name)


def test_a_byte_order_mark_is_kept_and_noted():
    document = parse(b"\xef\xbb\xbfname: 'n'\nlayer {\n  name: 'a'\n  fork: 1\n}\n", "net.prototxt")
    assert document.root.to_fields().text("name") == "n"
    assert document.notes == (
        "net.prototxt:1:1: begins with a byte order mark, which Caffe rejects; it is kept",
        "net.prototxt:4:3: field 'fork' of LayerParameter is unknown to BVLC Caffe; it is kept",
    )
    assert document.splice([]).source == document.source


@pytest.mark.parametrize(
    "text",
    [
        "fork: 1", "fork: -inf", "fork: 'a' \"b\"", "fork: [1, -2.5e3, x]", "fork: []",
        "fork { a: 1 b { c: [2] } }", "fork: <a: 1>", "fork [{a: 1}, <b: 2>]", "fork: [{a {} }]",
    ],
)  # fmt: skip
def test_unknown_fields_of_every_form(text):
    source = b"layer { name: 'c' " + text.encode() + b" type: 'T' }"
    document = parse(source)
    (layer,) = document.root.fields[0].messages
    assert [field.name for field in layer.fields] == ["name", "fork", "type"]
    assert document.text(layer.fields[1].span) == text.encode()
    assert layer.fields[1].definition is None
    assert layer.to_fields() == Fields("LayerParameter", {"name": ["c"], "type": ["T"]})
    assert len(document.notes) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"layer {", "x:1:8: found 'the end of the file' where '}' is expected, which closes the '{' of 1:7"),
        (b"name: 1", "x:1:7: field 'name': found '1', expected a string in quotes"),
        (b"name 'a'", "x:1:6: found \"'a'\" where ':' is expected after 'name'"),
        (b"force_backward: maybe", "x:1:17: field 'force_backward': found 'maybe', expected true or false"),
        (b"input_dim: 3000000000", "x:1:12: field 'input_dim': integer out of range (3000000000);"),
        (b"input_dim: " + b"9" * 5000, "x:1:12: field 'input_dim': integer out of range (9999999999"),
        (b"input_dim: 1.5", "x:1:12: field 'input_dim': found '1.5', expected an integer"),
        (b"state { phase: 3 }", "x:1:16: field 'phase': unknown value 3; allowed are TRAIN, TEST"),
        (b"layer: 3", "x:1:8: found '3' where '{' is expected: 'layer' is a message"),
        (b"name: 'a' name: 'b'", "x:1:11: field 'name' is given a second time, but may be given once"),
        (b"\n\n  name: '\\q'", "x:3:11: invalid escape in a string"),
        (b"name: 'a\\u12'", "x:1:10: expected four hex digits after \\u in a string"),
        (b"name: '\\U00110000'", "x:1:8: escape \\U00110000 is beyond the last code point"),
        (b"layer { layer_norm_param: { }", "x:1:30: found"),
        (b"\x89HDF\r\n", "x:1:1: byte 0x89 outside a string or comment"),
        (b"# c\n\x01", "x:2:1: control character 0x01; remove it"),
    ],
)  # fmt: skip
def test_errors_say_where_what_was_found_and_what_was_expected(text, message):
    with pytest.raises(FormatError) as caught:
        parse(text, "x")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("opening", [b"layer{", b"fork{", b"fork<", b"a[{"])
def test_deep_nesting_is_an_error_with_a_place(opening):
    with pytest.raises(FormatError, match=r"^x:1:\d+: messages are nested more than 100 deep$"):
        parse(opening * 50_000, "x")


_LAYER = (
    b'layer { name: "c%d" type: "Convolution" bottom: "d" convolution_param { num_output: 4 fork: 1 } }\n'
)


@pytest.mark.parametrize(
    "source",
    [
        b"".join(_LAYER % i for i in range(10_000)),
        b"layer { input_param { shape { " + b"dim: 1 " * 30_000 + b"} } }",
        b"# comment\n" * 100_000,
        b"name: " + b"'x' " * 100_000,
    ],
    ids=["1 MB, 10000 notes", "one line", "comments", "one string of many"],
)
def test_large_files_take_time_in_proportion(source):
    begin = time.process_time()
    parse(source)
    # Takes under two seconds; anything quadratic would take minutes.
    assert time.process_time() - begin < 20


def test_the_tree_knows_where_everything_stands():
    source = (
        b"name: 'a'\r\nlayer <\r\n  bottom: ['x', \"y\" 'z'] ; # why\r\n  param [{}, <name: 'w'>]\r\n>\r\n"
    )
    document = parse(source)
    layer_field = document.root.all("layer")[0]
    (layer,) = layer_field.messages
    bottom, param = layer.fields
    assert document.text(layer_field.span).startswith(b"layer <")
    assert document.text(layer.span) == source[source.index(b"<") : source.rindex(b">") + 1]
    assert document.text(layer.body) == document.text(layer.span)[1:-1]
    assert document.text(bottom.span) == b"bottom: ['x', \"y\" 'z']"
    assert [document.text(scalar.span) for scalar in bottom.scalars] == [b"'x'", b"\"y\" 'z'"]
    assert [scalar.raw for scalar in bottom.scalars] == [b"'x'", b"\"y\" 'z'"]
    assert [scalar.value for scalar in bottom.scalars] == ["x", "yz"]
    assert [document.text(message.span) for message in param.messages] == [b"{}", b"<name: 'w'>"]
    assert param.listed
    assert document.line_column(bottom.span[0]) == (3, 3)
    assert [document.text(span) for span in comments(source, (0, len(source)))] == [b"# why"]


def test_strings_that_are_not_utf8_give_their_bytes_back():
    source = b"name: '\xff\xe9' layer { name: '\\377' }"
    fields = parse(source).root.to_fields()
    assert fields.text("name").encode("utf-8", "surrogateescape") == b"\xff\xe9"
    assert fields.messages("layer")[0].text("name").encode("utf-8", "surrogateescape") == b"\xff"


def test_splice_replaces_and_parses_again():
    document = parse(b"name: 'a' # keep\nlayer { name: 'b' }\n")
    name = document.root.fields[0].scalars[0]
    layer = document.root.fields[1]
    spliced = document.splice([(*layer.span, b"layer { name: 'c' }"), (*name.span, b'"long name"')])
    assert spliced.source == b"name: \"long name\" # keep\nlayer { name: 'c' }\n"
    assert spliced.root.to_fields().text("name") == "long name"
    with pytest.raises(FormatError, match="1:7"):
        document.splice([(*name.span, b"oops")])
    with pytest.raises(AssertionError, match="Bug: edits overlap"):
        apply_edits(b"abcdef", [(0, 3, b""), (2, 4, b"")])


def _tiles(message: Message) -> None:
    """Check that spans nest and are in order."""
    position = message.body[0]
    assert message.span[0] <= message.body[0] <= message.body[1] <= message.span[1]
    for field in message.fields:
        assert position <= field.span[0] < field.span[1] <= message.body[1]
        position = field.span[1]
        inner = field.span[0] + len(field.name)
        for value in field.values:
            assert inner <= value.span[0] < value.span[1] <= field.span[1]
            inner = value.span[1]
            if isinstance(value, Message):
                _tiles(value)


@given(st.integers(0, 2**63))
def test_random_trees_in_random_styles_read_as_what_they_are(seed):
    rng = random.Random(seed)
    fields = random_fields(rng, "NetParameter")
    source = render(rng, fields)
    document = parse(source)
    assert document.root.to_fields() == fields
    assert document.notes == ()
    assert document.splice([]).source == source
    _tiles(document.root)


@given(st.integers(0, 2**63))
@settings(max_examples=50)
def test_protobuf_reads_the_same(seed):
    rng = random.Random(seed)
    fields = random_fields(rng, "NetParameter")
    source = render(rng, fields, exotic=False)
    assert _rounded(as_fields(parse_text(source))) == _rounded(parse(source).root.to_fields())


def _rounded(fields: Fields) -> Fields:
    """With floats in single precision, fields in order of name, and without lists that are empty."""
    rounded = {
        name: [
            _rounded(value)
            if isinstance(value, Fields)
            else float(np.float32(value))
            if isinstance(value, float)
            else value
            for value in values
        ]
        for name, values in sorted(fields.values.items())
        if values
    }
    return Fields(fields.type, rounded)


SMALL = [name for name in VERDICTS if len(probe(name)) < 2_000]
PIECES = [
    b"{",
    b"}",
    b"<",
    b">",
    b"[",
    b"]",
    b":",
    b",",
    b";",
    b"-",
    b"#",
    b"'",
    b'"',
    b"\\",
    b"\n",
    b"\r",
    b"0x",
]
PIECES += [b"1e", b".", b"name", b"layer", b"1", b"\xff", b"\0", b"\\u", b"\xef\xbb\xbf", b"{" * 200]


@given(
    st.sampled_from(SMALL),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5), st.sampled_from(PIECES)), min_size=1, max_size=4),
)
def test_damaged_text_gives_a_format_error_or_is_read(name, damages):
    source = probe(name)
    for place, removed, inserted in damages:
        at = round(place * len(source))
        source = source[:at] + inserted + source[at + removed :]
    _read_or_refuse(source)


@given(st.binary(max_size=200))
def test_garbage_gives_a_format_error_or_is_read(source):
    _read_or_refuse(source)


def _read_or_refuse(source: bytes) -> None:
    try:
        document = parse(source, "x")
    except FormatError as error:
        line, column = str(error).split(":")[1:3]
        assert 1 <= int(line) <= source.count(b"\n") + 1
        assert 1 <= int(column) <= len(source) + 1
        return
    _tiles(document.root)
    assert document.source == source
    with contextlib.suppress(TwofoldError):
        read_net(document)


def test_nodes_are_values():
    scalar = Scalar((0, 1), b"1", 1)
    assert scalar == Scalar((0, 1), b"1", 1)
    assert Field("a", (0, 1), (scalar,), None).messages == ()
