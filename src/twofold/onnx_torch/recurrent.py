"""LSTM, GRU and RNN: layers behind convolutions, such as those that read a line of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .registry import Node, Operation, UnsupportedError, register

#: A step: what the input gives to all gates (N, G * H), the states (N, H), the weights (G * H, H) and the
#: bias (G * H,) of the recurrence, the peepholes (3 * H,) or None -> the new states, hidden first.
Cell = Callable[[Tensor, tuple[Tensor, ...], Tensor, Tensor, "Tensor | None"], tuple[Tensor, ...]]

_TURNS: Mapping[str, tuple[bool, ...]] = {
    "forward": (False,), "reverse": (True,), "bidirectional": (False, True),
}  # fmt: skip


@dataclass(frozen=True)
class _Layer:
    """What all three have in common.

    Attributes:
        cell: a step.
        gates: number of blocks of rows in the weights.
        turns: of every direction, whether it begins at the end.
        batch_first: whether the inputs are (N, T, C) instead of (T, N, C).
    """

    cell: Cell
    gates: int
    turns: tuple[bool, ...]
    batch_first: bool

    def __call__(
        self,
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None,
        lengths: Tensor | None,
        first: Sequence[Tensor | None],
        peepholes: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """All hidden states (T, directions, N, H), and the last states (directions, N, H) of each kind.

        Args:
            x: (T, N, C).
            w: (directions, gates * H, C), by which the input is multiplied.
            r: (directions, gates * H, H), by which the hidden state is multiplied.
            b: (directions, 2 * gates * H), of both; None for 0.
            lengths: (N,) of the sequences; all must be T.
            first: states (directions, N, H) before the first step; None for 0.
            peepholes: (directions, 3 * H), of an LSTM.
        """
        if self.batch_first:
            x, first = x.transpose(0, 1), [s if s is None else s.transpose(0, 1) for s in first]
        steps, batch, hidden = len(x), x.shape[1], r.shape[2]
        if lengths is not None and bool((lengths != steps).any()):
            raise UnsupportedError("a recurrent layer with sequences of unlike lengths")
        zero = x.new_zeros(batch, hidden)
        runs, last = [], []
        for at, backwards in enumerate(self.turns):
            bias = x.new_zeros(2 * self.gates * hidden) if b is None else b[at]
            of_input, of_state = bias.chunk(2)
            gates = x @ w[at].T + of_input
            states = tuple(zero if state is None else state[at] for state in first)
            own = None if peepholes is None else peepholes[at]
            found: list[Tensor] = []
            for gate in reversed(gates.unbind()) if backwards else gates.unbind():
                states = self.cell(gate, states, r[at], of_state, own)
                found.append(states[0])
            runs.append(torch.stack(found[::-1] if backwards else found))
            last.append(states)
        y, *ends = torch.stack(runs, 1), *(torch.stack(kind) for kind in zip(*last, strict=True))
        if self.batch_first:
            return y.permute(2, 0, 1, 3), *(end.transpose(0, 1) for end in ends)
        return y, *ends


def _layer(node: Node, cell: Cell, gates: int, *activations: str) -> _Layer:
    turns = _TURNS[node.get("direction", "forward")]
    node.reject("activations", None, len(turns) * list(activations))
    node.reject("clip", None, 0.0)
    node.reject("input_forget", 0)
    return _Layer(cell, gates, turns, bool(node.get("layout", 0)))


@register("LSTM")
def _lstm(node: Node) -> Operation:
    layer = _layer(node, _lstm_cell, 4, "Sigmoid", "Tanh", "Tanh")

    def lstm(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h: Tensor | None = None,
        c: Tensor | None = None,
        p: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        return layer(x, w, r, b, lengths, (h, c), p)

    return lstm


def _lstm_cell(
    gates: Tensor, states: tuple[Tensor, ...], r: Tensor, bias: Tensor, peepholes: Tensor | None
) -> tuple[Tensor, ...]:
    h, c = states
    into, out, forget, new = (gates + h @ r.T + bias).chunk(4, dim=-1)
    of_into, of_out, of_forget = (0.0, 0.0, 0.0) if peepholes is None else peepholes.chunk(3)
    c = torch.sigmoid(forget + of_forget * c) * c + torch.sigmoid(into + of_into * c) * torch.tanh(new)
    return torch.sigmoid(out + of_out * c) * torch.tanh(c), c


@register("GRU")
def _gru(node: Node) -> Operation:
    before_reset = bool(node.get("linear_before_reset", 0))

    def cell(
        gates: Tensor, states: tuple[Tensor, ...], r: Tensor, bias: Tensor, _: Tensor | None
    ) -> tuple[Tensor, ...]:
        (h,) = states
        rows = 2 * h.shape[-1]
        update, reset = torch.sigmoid(gates[:, :rows] + h @ r[:rows].T + bias[:rows]).chunk(2, dim=-1)
        of_h, of_bias = r[rows:].T, bias[rows:]
        old = reset * (h @ of_h + of_bias) if before_reset else (reset * h) @ of_h + of_bias
        return (torch.lerp(torch.tanh(gates[:, rows:] + old), h, update),)

    return _of_one_state(_layer(node, cell, 3, "Sigmoid", "Tanh"))


@register("RNN")
def _rnn(node: Node) -> Operation:
    def cell(
        gates: Tensor, states: tuple[Tensor, ...], r: Tensor, bias: Tensor, _: Tensor | None
    ) -> tuple[Tensor, ...]:
        return (torch.tanh(gates + states[0] @ r.T + bias),)

    return _of_one_state(_layer(node, cell, 1, "Tanh"))


def _of_one_state(layer: _Layer) -> Operation:
    def run(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        return layer(x, w, r, b, lengths, (h,))

    return run
