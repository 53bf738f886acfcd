"""Budgets as users write them, and what they reject."""

from __future__ import annotations

import pytest

from twofold.errors import OptionError
from twofold.planning import Budget


@pytest.mark.parametrize(
    ("text", "value", "absolute"),
    [
        ("0.4", 0.4, False), ("1", 1.0, False), ("1e-1", 0.1, False),
        ("40%", 0.4, False), ("2.5 %", 0.025, False),
        ("3.2G", 3.2e9, True), ("500k", 5e5, True), (" 2 m ", 2e6, True),
    ],
)  # fmt: skip
def test_reading(text, value, absolute):
    budget = Budget.parse("macs", text)
    assert (budget.metric, budget.value, budget.absolute) == ("macs", pytest.approx(value), absolute)


@pytest.mark.parametrize("text", ["", "half", "%", "40%%", "-0.4", "0.4.1", "nan", "inf", "3X", "0,4"])
def test_what_is_no_budget(text):
    with pytest.raises(OptionError, match=r"macs: .* is no budget; write a ratio such as 0.4"):
        Budget.parse("macs", text)


@pytest.mark.parametrize(
    ("kind", "value", "absolute", "words"),
    [
        ("macs", 40, False, "ratio above 1.*write 0.4 for 40 %.*40M"),
        ("params", float("nan"), False, "finite"),
        ("params", -1, False, "not negative"),
        ("energy", 0, False, "fraction between 0 and 1"),
        ("energy", 1.5, False, "fraction between 0 and 1"),
        ("error", 3, True, "no absolute amount"),
    ],
)
def test_rejections(kind, value, absolute, words):
    with pytest.raises(OptionError, match=f"{kind}: .*{words}"):
        Budget(kind, value, absolute)


def test_words():
    assert str(Budget("macs", 0.4)) == "MACs at most 0.4 of the original"
    assert str(Budget("params", 5e5, absolute=True)) == "params at most 500000"
    assert str(Budget("time", 0.5)) == "time at most 0.5 of the original"
    assert str(Budget("error", 0.05)) == "output error at most 0.05"
    assert str(Budget("energy", 0.99)) == "each layer keeps a fraction of 0.99 of its energy"


@pytest.mark.parametrize(
    ("given", "value", "absolute"),
    [
        ("20M", 2e7, True),
        (2e7, 2e7, True),
        ("2e7", 2e7, True),
        (20_000, 2e4, True),
        (0.4, 0.4, False),
        ("0.4", 0.4, False),
    ],
)
def test_numbers_and_texts_are_one_budget(given, value, absolute):
    budget = Budget.of("macs", given)
    assert (budget.value, budget.absolute) == (value, absolute)


@pytest.mark.parametrize(
    ("kind", "given"), [("macs", 40), ("macs", True), ("macs", None), ("error", "1M"), ("macs", "x")]
)
def test_what_is_no_budget_in_python(kind, given):
    with pytest.raises(OptionError, match=kind):
        Budget.of(kind, given)
