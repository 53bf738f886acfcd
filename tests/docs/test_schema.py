"""The schema of plan files and the code that reads them agree, in what they take and in what they reject."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from twofold import Plan, TwofoldError
from twofold.planning.codec import plan_from_json

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "plan.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
GEOMETRY = {
    "c_out": 8, "c_in": 4, "kernel": [3, 3], "stride": [1, 1], "pad": [[1, 1], [1, 1]], "dilation": [1, 1],
    "groups": 1,
}  # fmt: skip
TIMING = {"predicted": [0.2, 0.1], "measured": [0.2, 0.1], "spread": 0.01}
#: A plan in which every key occurs.
FULL: dict[str, Any] = {
    "twofold_plan": 1, "version": "0.1.0", "sources": {"net.onnx": "00"},
    "options": {
        "budget": {"metric": "macs", "value": 0.5, "absolute": False}, "rule": None, "multiple": 16,
        "schemes": ["spatial"], "only": ["conv"], "skip": [], "ranks": ["conv=2"], "device": "none",
    },
    "macs_per": "image", "notes": ["a"], "totals": {"macs": [2, 1]}, "calibration": {"inputs": "synthetic"},
    "measured_output_error": 0.1,
    "timing": {"setting": "torch", "batch": 1, "factor": 1.0, "seconds": TIMING},
    "choices": [
        {
            "layer": "conv", "geometry": GEOMETRY, "scheme": "spatial", "variant": "vertical", "ranks": [2],
            "macs": [20, 10], "params": [20, 10],
            "predicted": {"for": "spatial 2", "relative_error": 0.1, "output_error": 0.2},
            "notes": [], "becomes": ["a", "b"], "timing": TIMING,
        }
    ],
    "skipped": [{"layer": "one", "reason": "1x1", "geometry": GEOMETRY, "macs": 3, "params": 4}],
}  # fmt: skip
#: What nobody says in a schema: layouts of the future, names of unknown things, counts that make no sense.
BEYOND = (
    "rule",
    "device",
    "kind",
    "scheme",
    "schemes",
    "kernel",
    "stride",
    "pad",
    "dilation",
    "groups",
    "multiple",
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values that are read."""
    if path and path[0] == "totals":
        return
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        if path != ("calibration",):
            yield from places(inner, (*path, key))


def changed(path: tuple[Any, ...], change: Any) -> dict[str, Any]:
    document: dict[str, Any] = copy.deepcopy(FULL)
    change(value_at(path[:-1], document), path[-1])
    return document


def value_at(path: tuple[Any, ...], document: Any = FULL) -> Any:
    for key in path:
        document = document[key]
    return document


def read(document: dict[str, Any]) -> bool:
    try:
        plan_from_json(json.dumps(document))
    except TwofoldError:
        return False
    return True


def valid(document: dict[str, Any]) -> bool:
    return VALIDATOR.is_valid(document)


def test_the_schema_is_one_and_takes_a_plan_with_every_key():
    Draft202012Validator.check_schema(SCHEMA)
    assert valid(FULL)
    assert read(FULL)


def test_what_may_be_missing():
    """Both say the same of every key that is taken away."""
    keys = [path for path in places(FULL) if path and isinstance(path[-1], str)]
    without = {path: changed(path, lambda inner, key: inner.pop(key)) for path in keys}
    assert [path for path, one in without.items() if valid(one) != read(one)] == []
    assert {read(one) for one in without.values()} == {True, False}


@pytest.mark.parametrize("value", [None, True, -1, 0.5, "text", [1, "a"], {"a": [1]}], ids=str)
def test_what_may_stand_there(value):
    """What is read is valid; what is rejected is not valid either, but for what a schema leaves open."""

    def put(inner: Any, key: Any) -> None:
        inner[key] = value

    taken, rejected = [], []
    for path in places(FULL):
        if path and path[0] not in ("sources", "calibration"):
            document = changed(path, put)
            if read(document):
                taken.append((path, valid(document)))
            elif not set(path) & set(BEYOND) and path != ("twofold_plan",):
                rejected.append((path, valid(document)))
    assert [path for path, sound in taken if not sound] == []
    assert [path for path, sound in rejected if sound] == []
    assert rejected


def test_unknown_keys_are_refused_by_both():
    free = ("sources",), ("calibration",)
    objects = [path for path in places(FULL) if path not in free and isinstance(value_at(path), dict)]
    assert len(objects) > 8
    for path in objects:
        document = copy.deepcopy(FULL)
        value_at(path, document)["unheard"] = 1
        assert (path, valid(document), read(document)) == (path, False, False)


def test_written_plans_are_valid():
    plan = plan_from_json(json.dumps(FULL))
    assert isinstance(plan, Plan)
    assert valid(json.loads(plan.to_json()))
