"""How plans, counts and shapes look to people."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.conv import ConvGeometry, Skipped
from twofold.planning import Choice, Plan
from twofold.text import aligned, count_text, error_text, shape_text

SQUARE = ConvGeometry.of(128, 64, (3, 3), pad=1)
PLAN = Plan(
    (
        Choice(
            "conv1", SQUARE, "spatial", "hw", (32,), (2 * 10**9, 5 * 10**8), (73_728, 18_432), 0.0123, 0.003
        ),
        Choice(
            "conv2_long", SQUARE, "tucker2", "", (16, 160), (1000, 1100), (999, 999), 2e-4, 0.004,
            ("rank given by the user",),
        ),
    ),
    (
        Skipped("dw", "grouped", ConvGeometry.of(8, 8, (3, 3), groups=8), 100, 72),
        Skipped("other", "no geometry"),
    ),
    notes=("a note on the whole",),
    measured_error=0.0123,
)  # fmt: skip


def test_lines_of_the_table():
    lines = str(PLAN).splitlines()
    assert lines[0].split("  ")[-1] == "output error"
    words = [" ".join(line.split()) for line in lines]
    assert words[1] == "conv1 64->128 3x3 spatial hw 32 2.00G → 500M 0.250 73.7k → 18.4k 0.250 0.0123 3.0e-03"
    assert lines[2].split()[3:6] == ["tucker2", "16x160", "*"]
    assert set(lines[3]) == {"-"}
    assert words[4] == "all convolutions 2 of 4 2.00G → 500M 0.250 74.8k → 19.5k 0.261 5.0e-03"
    assert lines[5] == "error: predicted relative error of each layer"
    assert lines[6].startswith("output error: predicted relative error of the network's output")
    assert lines[7] == "relative error of the network's output, measured on inputs: 0.0123"
    assert lines[8] == "MACs of other are not known, and in no sum"
    assert lines[9] == "* conv2_long: more expensive than the layer itself; rank given by the user"
    assert lines[10] == "a note on the whole"
    assert lines[11:13] == ["", "left as they are:"]
    assert [line.split(maxsplit=1)[0] for line in lines[13:]] == ["dw", "other"]
    assert "8->8 3x3, groups 8" in lines[13]
    assert lines[13].endswith("grouped")
    assert lines[14].endswith("no geometry")


def test_without_measurements_there_is_no_column_for_them():
    choices = tuple(replace(choice, output_error=None) for choice in PLAN.choices)
    text = str(replace(PLAN, choices=choices, measured_error=None))
    assert text.splitlines()[0].split()[-1] == "error"
    assert "output" not in text


def test_columns_stand_below_each_other():
    header, first, second, rule, total = str(PLAN).splitlines()[:5]
    end = header.index("MACs") + 4
    for line in (first, second, total):
        assert line[end : end + 2] == "  "
        assert line[end - 1] != " "
    assert len(rule) == max(len(line) for line in (header, first, second, total))
    assert not any(line.endswith(" ") for line in str(PLAN).splitlines())


def test_a_plan_that_changes_nothing_says_so():
    text = str(Plan((), (Skipped("a", "grouped"),), macs_per="output position"))
    assert "0 of 1" in text
    assert "MACs: per output position" in text
    assert "error:" not in text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (999, "999"), (1000, "1.00k"), (9996, "10.0k"), (999_499, "999k"), (999_500, "1.00M"),
        (3_470_000_000, "3.47G"), (10**12, "1.00T"), (10**16, "1.00e+04T"),
    ],
)  # fmt: skip
def test_counts(number, text):
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, "?"), (0.0, "0.0000"), (0.01234, "0.0123"), (0.00999, "1.0e-02"), (3e-7, "3.0e-07"),
        (1.0, "1.0000"),
    ],
)  # fmt: skip
def test_errors(error, text):
    assert error_text(error) == text


@pytest.mark.parametrize(
    ("geometry", "text"),
    [
        (SQUARE, "64->128 3x3, pad 1"),
        (
            ConvGeometry.of(4, 8, (3, 5), stride=(1, 2), dilation=(2, 2), groups=2),
            "8->4 3x5, stride 1x2, dilation 2, groups 2",
        ),
        (ConvGeometry.of(4, 8, (3, 5), pad=(1, 2)), "8->4 3x5, pad 1x2"),
        (ConvGeometry(4, 8, (3,), (2,), ((0, 1),), (1,)), "8->4 3, stride 2, pad 0+1"),
    ],
)  # fmt: skip
def test_shapes(geometry, text):
    assert shape_text(geometry, pads=True) == text
    assert "pad" not in shape_text(geometry)


def test_short_rows_run_on():
    assert aligned([("a", "b", "c"), ("long reason",), ("x", "yy", "1")], (2,)) == [
        "a  b   c",
        "long reason",
        "x  yy  1",
    ]
