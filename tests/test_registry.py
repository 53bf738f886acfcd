"""The tables that can be added to."""

from __future__ import annotations

import pytest

from twofold.errors import ModelError, OptionError
from twofold.registry import Registry, name_hint


def shapes() -> Registry[str, int]:
    table: Registry[str, int] = Registry("shape", normalize=str.lower)
    table.add(3, "Triangle", "trigon")
    table.add(4, "Square")
    return table


def test_keys_are_normalized():
    table = shapes()
    assert table.find("TRIGON") == table["triangle"] == 3
    assert list(table) == ["triangle", "trigon", "square"]
    assert table.get("circle") is None


def test_a_double_changes_nothing():
    table = shapes()
    with pytest.raises(OptionError, match="shape 'square' is registered already"):
        table.register("circle", "SQUARE")(0)
    assert dict(table) == dict(shapes())
    table.unregister("Square", "none")
    table.add(5, "square")
    assert table.find("square") == 5


def test_an_unknown_key_is_answered_with_the_known_ones_a_close_one_first():
    with pytest.raises(
        OptionError, match=r"no shape 'squar'; did you mean 'square'\? known: triangle, trigon, square"
    ):
        shapes().find("squar")
    with pytest.raises(ModelError, match="there is no filler 'x'; known: constant"):
        Registry("filler", {"constant": 1}, error=ModelError).find("x")


def test_of_many_names_some_are_listed():
    names = [f"conv{i}" for i in range(25)]
    assert name_hint("other", names).endswith("conv19 and 5 more")
    assert name_hint("RELU", ["ReLU", "ELU"]) == "; did you mean 'ReLU'? known: ReLU, ELU"
    assert name_hint("x", []) == "; there are none"
