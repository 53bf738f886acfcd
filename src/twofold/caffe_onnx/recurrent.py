"""LSTM and RNN whose states are inputs and outputs (`expose_hidden`), step by step.

ONNX's own LSTM has no `cont`, which begins sequences anew anywhere in a batch. Without `expose_hidden` Caffe
keeps the states from one pass to the next, which a graph cannot.
"""

from __future__ import annotations

from ..caffe_torch.recurrent import Recurrent
from ..errors import ModelError
from .registry import register
from .site import Site, Value


@register("LSTM")
def lstm(site: Site) -> tuple[Value, ...]:
    """The gates of all steps at once, then a step after the other."""
    layer, steps = _steps(site)
    weight, size = _turned(site, -1), layer.size
    hidden, cell = site.bottoms[-2:]
    outputs = []
    for inputs, cont in steps:
        gates = site.node("Add", inputs, site.node("MatMul", site.node("Mul", hidden, cont), weight))
        i, f, o, g = site.nodes("Split", (gates, site.integers("sizes", (size,) * 4)), 4, axis=2)
        kept = site.node("Mul", site.node("Mul", cont, site.node("Sigmoid", f)), cell)
        cell = site.node("Add", kept, site.node("Mul", site.node("Sigmoid", i), site.node("Tanh", g)))
        hidden = site.node("Mul", site.node("Sigmoid", o), site.node("Tanh", cell))
        outputs.append(hidden)
    return site.node("Concat", *outputs, axis=0), _alone(site, hidden), cell


@register("RNN")
def rnn(site: Site) -> tuple[Value, ...]:
    """The inputs of all steps at once, then a step after the other, and its output."""
    _, steps = _steps(site)
    weight, output, bias = _turned(site, -3), _turned(site, -2), site.parameter(_last(site, -1))
    hidden, outputs = site.bottoms[-1], []
    for inputs, cont in steps:
        again = site.node("MatMul", site.node("Mul", hidden, cont), weight)
        hidden = site.node("Tanh", site.node("Add", inputs, again))
        outputs.append(site.node("Tanh", site.node("Add", site.node("MatMul", hidden, output), bias)))
    return site.node("Concat", *outputs, axis=0), hidden


def _alone(site: Site, value: Value) -> Value:
    """The value under a name of its own, since it is part of another output, too."""
    return site.node("Identity", value)


def _last(site: Site, index: int) -> int:
    return index + len(site.module.blobs)


def _turned(site: Site, index: int) -> Value:
    """A weight (out, in), counted from the last blob, as (in, out)."""
    return site.node("Transpose", site.parameter(_last(site, index) if index < 0 else index), perm=[1, 0])


def _steps(site: Site) -> tuple[Recurrent, list[tuple[Value, Value]]]:
    """What the inputs contribute to each step, (1, N, rows), and its `cont`, (1, N, 1).

    Raises:
        ModelError: the layer keeps its state from one pass to the next.
    """
    layer, (steps, streams, *rest) = site.module, site.shapes[0]
    assert isinstance(layer, Recurrent)
    if not layer.expose:
        raise ModelError(
            f"{site.spec.label} ({site.spec.type}) keeps its state from one pass to the next, which an ONNX "
            "graph cannot; give it expose_hidden: true, and its first states as bottoms"
        )
    width = layer.blobs[0].shape[1]
    rows = site.reshaped(site.bottoms[0], (steps, streams, width)) if len(rest) != 1 else site.bottoms[0]
    rows = site.node("Add", site.node("MatMul", rows, _turned(site, 0)), site.parameter(1))
    if layer.static:
        static = site.reshaped(site.bottoms[2], (streams, layer.blobs[2].shape[1]))
        rows = site.node("Add", rows, site.node("MatMul", static, _turned(site, 2)))
    cont = site.reshaped(site.bottoms[1], (steps, streams, 1))
    ones = site.integers("steps", (1,) * steps)
    parts = (site.nodes("Split", (value, ones), steps, axis=0) for value in (rows, cont))
    return layer, list(zip(*parts, strict=True))
