"""What is rejected before the long work: the same as after it, with the same words."""

from __future__ import annotations

import pytest
from tests.planning.cases import plan_for, small_net

from twofold.conv import Skipped
from twofold.errors import PlanError
from twofold.planning import Budget, FixedRanks, PlanOptions
from twofold.planning.feasible import check_feasible

KINDS = [
    {},
    {"schemes": ("spatial", "channel", "input", "tucker2")},
    {"multiple": 1},
    {"multiple": 8, "device": "tensor-cores"},
    {"skip": ("conv1",)},
    {"ranks": (FixedRanks("conv2", (5,)),)},
]


def rejection(check, options):
    try:
        check(small_net(), options)
    except PlanError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("given", KINDS, ids=str)
def test_it_refuses_what_a_plan_would_refuse(given, kind):
    found = []
    for ratio in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9):
        options = PlanOptions(budget=Budget(kind, ratio), **{"multiple": 4, **given})
        early, late = rejection(check_feasible, options), rejection(plan_for, options)
        found.append(early)
        assert early == late, ratio
    assert None in found
    assert any(found)


def test_patterns_are_refused():
    for given in ({"skip": ("Conv_999",)}, {"only": ("Conv_999",)}, {"ranks": (FixedRanks("conv9", (4,)),)}):
        with pytest.raises(PlanError, match="no convolution is called"):
            check_feasible(small_net(), PlanOptions(**given))


def test_where_nothing_can_be_decomposed_the_most_common_reason_is_said():
    layers = [Skipped(str(i), "is quantized", None, 10, 10) for i in range(3)]
    with pytest.raises(PlanError, match=r"none of the 3 convolutions can be .*; all of them: is quantized"):
        check_feasible(layers, PlanOptions(budget=Budget("macs", 0.5)))
    with pytest.raises(PlanError, match=r"none of the 4 .*; 3 of them: is quantized"):
        check_feasible([*layers, Skipped("x", "1x1", None, 1, 1)], PlanOptions(budget=Budget("macs", 0.5)))
    check_feasible(layers, PlanOptions())
