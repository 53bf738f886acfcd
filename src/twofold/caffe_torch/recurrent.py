"""LSTM, RNN and LSTMUnit.

Sequences are (T, N, ...), `cont` (T, N) is 0 where a sequence begins. The state after the last step serves
the next forward pass, as in Caffe; `reset_state` forgets it.
Source: BVLC Caffe 1.0, `recurrent_layer.cpp`, `lstm_layer.cpp`, `lstm_unit_layer.cpp`, `rnn_layer.cpp`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..formats.caffe.net import LayerSpec
from .layer import Layer, Operation, Setup, Tops
from .registry import register, register_stateless


def lstm_unit(cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """One step: (N, D) cell, (N, 4 D) gates in the order i f o g, (N, 1) cont to the new cell and output."""
    i, f, o, g = gates.chunk(4, -1)
    new = cont * torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return new, torch.sigmoid(o) * torch.tanh(new)


@register_stateless("LSTMUnit")
def lstm_unit_layer(spec: LayerSpec) -> Operation:
    """(1, N, D) cell, (1, N, 4 D) gates, (1, N) cont to the new cell and output."""
    return lambda cell, gates, cont: lstm_unit(cell, gates, cont[..., None])


class Recurrent(Layer):
    """What LSTM and RNN have in common.

    Bottoms: x, cont, x_static if there is one, the first states with `expose_hidden`. Tops: the output, the
    last states with `expose_hidden`.
    """

    states: ClassVar[int]

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param = setup.spec.fields.message("recurrent_param")
        self.size, self.expose = param.integer("num_output"), param.flag("expose_hidden")
        self.static = len(setup.spec.bottoms) > 2 + self.expose * self.states
        self.state: tuple[Tensor, ...] | None = None

    def _add(self, setup: Setup, name: str, rows: int, source: int | None) -> None:
        """Add a weight (rows, width of bottom `source`), or a bias (rows,) where source is None."""
        param = setup.spec.fields.message("recurrent_param")
        if source is None:
            self.add_blob(setup, name, (rows,), param.message("bias_filler"))
            return
        shape = setup.bottoms[source]
        # The first bottom has time and stream axes in front, the static one only streams.
        width = None if shape is None else math.prod(shape[1 if source else 2 :])
        self.add_blob(setup, name, None if width is None else (rows, width), param.message("weight_filler"))

    def _add_static(self, setup: Setup, rows: int) -> None:
        if self.static:
            self._add(setup, "static_weight", rows, 2)
        else:
            self.register_parameter("static_weight", None)

    def _add_square(self, setup: Setup, name: str, rows: int) -> None:
        self.add_blob(
            setup,
            name,
            (rows, self.size),
            setup.spec.fields.message("recurrent_param").message("weight_filler"),
        )

    def _projected(
        self, bottoms: tuple[Tensor, ...], weight: Tensor, bias: Tensor, static: Tensor | None
    ) -> Tensor:
        """What the inputs contribute to every step: (T, N, rows)."""
        projected = functional.linear(bottoms[0].flatten(2), weight, bias)
        return projected if static is None else projected + functional.linear(bottoms[2].flatten(1), static)

    def _first(self, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """States before the first step, each (N, D)."""
        streams, x = bottoms[0].shape[1], bottoms[0]
        if self.expose:
            return tuple(state.reshape(streams, self.size) for state in bottoms[-self.states :])
        if self.state is None or self.state[0].shape[0] != streams:
            return (x.new_zeros(streams, self.size),) * self.states
        return tuple(state.to(x) for state in self.state)

    def _finish(self, outputs: list[Tensor], last: tuple[Tensor, ...]) -> Tops:
        self.state = tuple(state.detach() for state in last)
        top = torch.stack(outputs)
        return (top, *(state[None] for state in last)) if self.expose else top


@register("LSTM")
class LSTM(Recurrent):
    """Blobs W_x (4 D, I), b (4 D), (W_static), W_h (4 D, D); gates in the order i f o g."""

    states = 2
    input_weight: Tensor
    bias: Tensor
    static_weight: Tensor | None
    hidden_weight: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._add(setup, "input_weight", 4 * self.size, 0)
        self._add(setup, "bias", 4 * self.size, None)
        self._add_static(setup, 4 * self.size)
        self._add_square(setup, "hidden_weight", 4 * self.size)

    def forward(self, *bottoms: Tensor) -> Tops:
        """(T, N, ...) to (T, N, D)."""
        gates = self._projected(bottoms, self.input_weight, self.bias, self.static_weight)
        hidden, cell = self._first(bottoms)
        outputs = []
        for step, cont in zip(gates, bottoms[1][..., None], strict=True):
            cell, hidden = lstm_unit(cell, step + functional.linear(hidden * cont, self.hidden_weight), cont)
            outputs.append(hidden)
        return self._finish(outputs, (hidden, cell))


@register("RNN")
class RNN(Recurrent):
    """Steps h = tanh(W_xh x + b_h + W_hh h), o = tanh(W_ho h + b_o).

    Blobs W_xh (D, I), b_h (D), (W_static), W_hh (D, D), W_ho (D, D), b_o (D).
    """

    states = 1
    input_weight: Tensor
    bias: Tensor
    static_weight: Tensor | None
    hidden_weight: Tensor
    output_weight: Tensor
    output_bias: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._add(setup, "input_weight", self.size, 0)
        self._add(setup, "bias", self.size, None)
        self._add_static(setup, self.size)
        self._add_square(setup, "hidden_weight", self.size)
        self._add_square(setup, "output_weight", self.size)
        self._add(setup, "output_bias", self.size, None)

    def forward(self, *bottoms: Tensor) -> Tops:
        """(T, N, ...) to (T, N, D)."""
        inputs = self._projected(bottoms, self.input_weight, self.bias, self.static_weight)
        (hidden,) = self._first(bottoms)
        outputs = []
        for step, cont in zip(inputs, bottoms[1][..., None], strict=True):
            hidden = torch.tanh(step + functional.linear(hidden * cont, self.hidden_weight))
            outputs.append(torch.tanh(functional.linear(hidden, self.output_weight, self.output_bias)))
        return self._finish(outputs, (hidden,))


def reset_state(net: nn.Module) -> None:
    """Forget the state that the recurrent layers of `net` keep from their last forward pass."""
    for module in net.modules():
        if isinstance(module, Recurrent):
            module.state = None
