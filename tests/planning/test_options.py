"""Options, patterns, and the layers that they select."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.planning.cases import make_layer, small_net

from twofold.conv import ConvGeometry, ConvLayer, Skipped
from twofold.errors import OptionError, PlanError
from twofold.planning import Budget, FixedRanks, PlanOptions
from twofold.planning.options import select

NET = [
    make_layer(name, ConvGeometry.of(16, 16, (3, 3))) for name in ("conv1_1", "conv1_2", "conv2_1", "odd[1]")
]


def chosen(options: PlanOptions, layers=NET) -> list[str]:
    return [layer.name for layer in select(layers, options).layers]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["conv1_1", "conv1_2", "conv2_1", "odd[1]"]),
        ({"only": ("conv1_*",)}, ["conv1_1", "conv1_2"]),
        ({"only": ("conv1_*", "conv2_1"), "skip": ("*_2",)}, ["conv1_1", "conv2_1"]),
        ({"skip": ("conv?_1",)}, ["conv1_2", "odd[1]"]),
        ({"only": ("odd[1]",)}, ["odd[1]"]),
        ({"skip": ("*",)}, []),
    ],
)
def test_patterns(options, names):
    assert chosen(PlanOptions(**options)) == names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"only": ("conv9*",)},
            r"only: no convolution is called 'conv9\*'; known: conv1_1, conv1_2, conv2_1",
        ),
        ({"skip": ("conv1-1",)}, "skip: .*did you mean 'conv1_1'"),
        ({"ranks": (FixedRanks("Conv2_1", (4,)),)}, "rank: .*did you mean 'conv2_1'"),
    ],
)
def test_patterns_that_match_nothing(options, words):
    with pytest.raises(PlanError, match=words):
        select(NET, PlanOptions(**options))


def test_reasons_of_layers_left_alone():
    layers = [
        *NET, make_layer("pointwise", ConvGeometry.of(16, 16, (1, 1))),
        ConvLayer("empty", NET[0].geometry, None), Skipped("odd", "of another kind"),
    ]  # fmt: skip
    options = PlanOptions(only=("conv1_1", "conv1_2", "pointwise", "empty", "odd"), skip=("conv1_2",))
    reasons = {skipped.name: skipped.reason for skipped in select(layers, options).skipped}
    assert "only" not in reasons
    assert reasons["conv1_2"] == "skipped on request"
    assert reasons["conv2_1"].startswith("not among the layers asked for (conv1_1")
    assert "1x1" in reasons["pointwise"]
    assert reasons["empty"] == "its weights are not loaded"
    assert reasons["odd"] == "of another kind"
    assert {s.name: s.params for s in select(layers, options).skipped}["conv1_2"] == 16 * 16 * 9


def test_a_layer_stays_only_if_all_schemes_refuse():
    pointwise = make_layer("pointwise", ConvGeometry.of(16, 16, (1, 1)))
    assert chosen(PlanOptions(schemes=("spatial", "channel")), [pointwise]) == ["pointwise"]
    rejected = select([pointwise], PlanOptions(schemes=("spatial", "tucker2"))).skipped[0].reason
    assert "spatial: " in rejected
    assert "tucker2: " in rejected
    depthwise = make_layer("depthwise", ConvGeometry.of(16, 16, (3, 3), groups=16))
    reason = select([depthwise], PlanOptions(schemes=("spatial", "channel"))).skipped[0].reason
    assert reason.count("depthwise") == 1


def test_sharers_name_the_owner():
    shared = replace(NET[0], sharers=("twin",))
    assert chosen(PlanOptions(only=("twin",)), [shared, NET[1]]) == ["conv1_1"]
    assert chosen(PlanOptions(skip=("twin",)), [shared, NET[1]]) == ["conv1_2"]


def test_fixed_ranks():
    options = PlanOptions(ranks=(FixedRanks("conv*", (8,)), FixedRanks("conv2_1", None)))
    assert select(NET, options).fixed == {"conv1_1": (8,), "conv1_2": (8,), "conv2_1": None}
    with pytest.raises(PlanError, match="rank: conv1_1 is left alone: skipped on request"):
        select(NET, PlanOptions(skip=("conv1_1",), ranks=(FixedRanks("conv1_1", (8,)),)))
    # A pattern speaks of those that may be decomposed.
    assert list(select(NET, PlanOptions(skip=("conv1_1",), ranks=(FixedRanks("conv1*", (8,)),))).fixed) == [
        "conv1_2"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv1=32", FixedRanks("conv1", (32,))), ("a=b=32x48", FixedRanks("a=b", (32, 48))),
        ("conv*=full", FixedRanks("conv*", None)), ("x = FULL ", FixedRanks("x ", None)),
    ],
)  # fmt: skip
def test_reading_fixed_ranks(text, expected):
    assert FixedRanks.parse(text) == expected
    assert FixedRanks.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["conv1", "=32", "conv1=", "conv1=0", "conv1=-3", "conv1=3.5", "conv1=3x", "conv1=²"]
)
def test_what_is_no_fixed_rank(text):
    with pytest.raises(OptionError, match="such as conv3_1=96"):
        FixedRanks.parse(text)


@pytest.mark.parametrize("ranks", [(), (0,), (4, -1)])
def test_ranks_are_positive(ranks):
    with pytest.raises(OptionError, match="rank: conv1 gets ranks of 1 or more"):
        FixedRanks("conv1", ranks)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"multiple": 0}, "multiple: .*not 0"),
        ({"schemes": ()}, "scheme: at least one"),
        ({"schemes": ("cp",)}, "no scheme 'cp'; known:"),
        ({"rule": "energy"}, "fraction to keep"),
        ({"rule": "amct", "budget": Budget("macs", 0.4)}, "a budget .* does not apply"),
        ({"rule": "amct", "schemes": ("channel",)}, "uses scheme spatial"),
    ],
)
def test_contradictions(options, words):
    with pytest.raises(OptionError, match=words):
        PlanOptions(**options)


def test_names_are_normalised():
    assert PlanOptions(schemes=("Spatial", "tucker-2", "spatial")).schemes == ("spatial", "tucker2")
    assert PlanOptions(Budget("energy", 0.9)).rule == "energy"


def test_the_small_net_has_what_tests_rely_on():
    assert len(select(small_net(), PlanOptions()).layers) == 3
