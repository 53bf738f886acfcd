"""One entry per format: what it names is there, and every format with an entry can do what it lists."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from twofold.backends import Backend, Part, backend, backend_of, backends
from twofold.errors import MissingExtraError, ModelError, OptionError
from twofold.lazy import resolve


def names() -> Iterator[str]:
    """Every function that an entry names."""
    for one in backends():
        parts = (one.runner, one.student, one.to_onnx, one.inputs)
        functions = [part.function for part in parts if part is not None] + list(one.forms.values())
        functions += [] if one.objects is None else [one.objects.adopt, one.objects.peek]
        yield from (name for name in functions if isinstance(name, str))


@pytest.mark.parametrize("name", dict.fromkeys(names()))
def test_what_an_entry_names_is_there(name):
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    assert callable(resolve(name))


def test_what_is_missing_is_named():
    part = Part("twofold_nothing:make", "Nothing", "nothing")
    with pytest.raises(MissingExtraError, match=r"timing needs Nothing.*twofold\[nothing\]"):
        part.get("timing")
    with pytest.raises(OptionError, match="no format 'chain'; known: caffe, onnx, torch"):
        backend("chain")
    with pytest.raises(ModelError, match="type Backend is no model"):
        backend_of(Backend("x"))
