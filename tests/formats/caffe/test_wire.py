"""The wire scanner against protobuf's own parser: what it accepts, and that nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tests.formats.caffe.wire_oracle import NetParameter, parse

from twofold.formats.caffe.wire import (
    FIXED32,
    FIXED64,
    GROUP,
    GROUP_END,
    LENGTH,
    VARINT,
    WireError,
    edited,
    fields,
    length_field,
    packed_varints,
    read_varint,
    signed,
    tag,
    varint,
    varint_field,
)

UNKNOWN = 2000  # a number that none of the oracle's messages has


def scan(data: bytes):
    return list(fields(memoryview(data), 0, len(data)))


numbers = st.integers(1, 2**29 - 1)
simple_fields = st.one_of(
    st.builds(varint_field, numbers, st.integers(-(2**63), 2**63 - 1)),
    st.builds(length_field, numbers, st.binary(max_size=20)),
    st.builds(lambda n, b: tag(n, FIXED32) + b, numbers, st.binary(min_size=4, max_size=4)),
    st.builds(lambda n, b: tag(n, FIXED64) + b, numbers, st.binary(min_size=8, max_size=8)),
)
any_field = st.recursive(
    simple_fields,
    lambda inner: st.builds(
        lambda n, body: tag(n, GROUP) + b"".join(body) + tag(n, GROUP_END),
        numbers,
        st.lists(inner, max_size=3),
    ),
    max_leaves=8,
)
messages = st.lists(any_field, max_size=12).map(b"".join)


@given(messages)
def test_fields_tile_the_message(data):
    found = scan(data)
    assert [f.start for f in found] + [len(data)] == [0, *(f.end for f in found)]
    assert b"".join(map(bytes, edited(memoryview(data), 0, len(data), 0, lambda _: None))) == data


@given(st.lists(any_field, min_size=1, max_size=8), st.data())
def test_edit_touches_one_field(parts, data):
    chosen = data.draw(st.integers(0, len(parts) - 1))
    message = b"".join(parts)
    start = sum(map(len, parts[:chosen]))

    def edit(field):
        inside = start <= field.start < start + len(parts[chosen])
        if not inside:
            return None
        return b"" if field.start > start else b"NEW"

    runs = any(f.repeats > 1 for f in scan(message))
    if not runs:
        got = b"".join(map(bytes, edited(memoryview(message), 0, len(message), 0, edit)))
        assert got == b"".join([*parts[:chosen], b"NEW", *parts[chosen + 1 :]])


@given(st.binary(max_size=60))
def test_accepts_what_protobuf_accepts(data):
    # As an unknown message inside an unknown group, so that only the wire format counts.
    wrapped = tag(UNKNOWN, GROUP) + data + tag(UNKNOWN, GROUP_END)
    try:
        parse(wrapped)
        expected = True
    except DecodeError:
        expected = False
    try:
        scan(wrapped)
        got = True
    except WireError:
        got = False
    # Python's parser (upb) lets some numbers pass that Caffe's C++ parser refuses: overlong lengths and tags.
    # Never the other way round: what we accept, every parser accepts.
    assert expected or not got


@given(messages.filter(bool), st.data())
def test_truncation_is_noticed_at_every_byte(data, draw):
    cut = draw.draw(st.integers(0, len(data) - 1))
    boundaries = {0}
    for field in scan(data):
        boundaries.update(field.start + i * field.step for i in range(field.repeats + 1))
    if cut in boundaries:
        scan(data[:cut])
    else:
        with pytest.raises(WireError):
            scan(data[:cut])


@given(st.integers(-(2**63), 2**63 - 1))
def test_varint_round_trip(value):
    data = varint(value)
    raw, end = read_varint(memoryview(data), 0, len(data))
    assert (signed(raw), end) == (value, len(data))
    assert packed_varints(memoryview(data * 3), 0, 3 * len(data)) == [value] * 3


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 600, 5000])
@pytest.mark.parametrize("wire", [FIXED32, FIXED64])
def test_runs_of_fixed_width_fields(count, wire):
    width = {FIXED32: 4, FIXED64: 8}[wire]
    # Values full of the tag's own byte: a run must follow the field's step, not the byte.
    one = tag(5, wire) + tag(5, wire)[:1] * width
    data = varint_field(1, 7) + one * count + varint_field(1, 8)
    first, run, last = scan(data)
    assert (first.value, last.value) == (7, 8)
    assert (run.repeats, run.step, run.body - run.start) == (count, 1 + width, 1)
    cut = data[: -2 - 1]
    with pytest.raises(WireError, match="needs"):
        scan(cut)


def test_runs_are_fast():
    """A million unpacked floats, in a blink: the loop over them runs in numpy."""
    data = np.zeros((1_000_000, 5), np.uint8)
    data[:, 0] = 0x2D
    buffer = memoryview(data.tobytes())
    assert sum(1 for _ in fields(buffer, 0, len(buffer))) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x00", "field number 0"),
        (b"\x03\x04", "field number 0"),
        (b"\x0e", "wire type 6 does not exist"),
        (b"\x0f", "wire type 7 does not exist"),
        (b"\x0c", "group 1 ends without having begun"),
        (b"\x0b", "group 1 is not closed"),
        (b"\x0b\x14", "group 1 is closed as group 2"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than 10 bytes"),
        (b"\x0a\xff\xff\xff\xff\xff\x01", "more than 5 bytes"),
        (b"\x0a\xff\xff\xff\xff\x0f", "claims 4294967295 bytes where 0 are left"),
        (b"\x0a\x05abc", "claims 5 bytes where 3 are left"),
        (b"\x0d\x01", "needs 4 bytes where 1 are left"),
        (b"\x09" + b"\x01" * 7, "needs 8 bytes where 7 are left"),
        (b"\x08\x80", "end in the middle of a number"),
    ],
)
def test_reasons(data, reason):
    with pytest.raises(WireError, match=reason):
        scan(data)


@pytest.mark.parametrize(("depth", "fine"), [(100, True), (101, False)])
def test_nesting_limit_is_protobufs(depth, fine):
    data = tag(UNKNOWN, GROUP) * depth + tag(UNKNOWN, GROUP_END) * depth
    if fine:
        scan(data)
        parse(data)
    else:
        with pytest.raises(WireError, match="nested"):
            scan(data)
        with pytest.raises(DecodeError):
            parse(data)


def test_nesting_counts_the_messages_around():
    group = tag(UNKNOWN, GROUP) * 99 + tag(UNKNOWN, GROUP_END) * 99
    assert len(list(fields(memoryview(group), 0, len(group), depth=1))) == 1
    with pytest.raises(WireError, match="nested"):
        list(fields(memoryview(group), 0, len(group), depth=2))


def test_nonminimal_varints_are_read_as_protobuf_reads_them():
    net = NetParameter(name="x")
    data = net.SerializeToString()
    padded = data[:1] + b"\x81\x80\x80\x80\x00" + data[2:]
    assert parse(padded).name == "x"
    (field,) = scan(padded)
    assert (field.wire, padded[field.body : field.end]) == (LENGTH, b"x")
    assert scan(b"\x88\x80\x00\x05")[0][:2] == (1, VARINT)
