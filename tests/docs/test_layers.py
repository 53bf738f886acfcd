"""The page about layer types says what the code does."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from docs.make_layers import BUILDERS, CONVOLUTIONS, KINDS, PAGE, page

from twofold.backends import backends
from twofold.layer_types import LAYER_TYPES
from twofold.lowrank.schemes import SCHEMES


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run: python -m docs.make_layers"


def test_every_format_and_kind_is_there():
    assert {entry.name for entry in backends() if entry.open is not None} <= set(BUILDERS)
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]] == list(KINDS)
    plain = next(row for row in rows if row.startswith("| convolution over two axes"))
    assert plain.count(", ".join(SCHEMES)) == len(BUILDERS)
    assert len(CONVOLUTIONS) == 8
    assert {geometry.layer_type for geometry in KINDS.values()} == set(LAYER_TYPES)
