"""Test phases: the mean of a test net's outputs over some batches, as Caffe takes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..caffe_torch import CaffeNet
from ..conv import Size
from ..distributed import World
from ..formats.caffe.weights import Float32

#: Blobs of more values are shown as their mean.
_MOST_VALUES = 16

Outputs = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Test:
    """What one test showed.

    Attributes:
        iteration: number of training iterations that were done.
        net: number of the test net.
        outputs: the net's output blobs, mean over the batches; of large blobs the mean of all values.
        loss: the sum of its losses, where the solver asks for it.
        int8: whether the int8 form was tested, in ONNX Runtime.
    """

    iteration: int
    net: int
    outputs: Outputs
    loss: float | None = None
    int8: bool = False

    # pytest would take the class for one of tests.
    __test__ = False

    @property
    def label(self) -> str:
        """What was tested."""
        return f"Test net #{self.net}{' in int8' if self.int8 else ''}"

    def __str__(self) -> str:
        extra = "" if self.loss is None else f", loss of the net = {self.loss:.6g}"
        return f"{self.label}: {text_of(self.outputs)}{extra}"


class Source(Protocol):
    """What gives batches by their numbers."""

    def over(self, numbers: Iterable[int]) -> Iterator[dict[str, Tensor]]:
        """The batches of these numbers, as tensors by the names of blobs."""

    def shapes(self) -> dict[str, Size]:
        """Shapes of all blobs, for the whole batch."""


class Tester:
    """A test net and its data.

    Attributes:
        net: the net, in phase TEST.
        batches: what it is tested with.
        count: batches per test.
        number: of the test net.
        int8: whether it is the int8 form that is tested.
        passes: batches that were used; every test goes on where the last one ended.
    """

    def __init__(
        self, net: CaffeNet, batches: Source, count: int, number: int = 0, *, int8: bool = False
    ) -> None:
        self.net, self.batches, self.count, self.passes = net.eval(), batches, count, 0
        self.number, self.int8 = number, int8

    def take(self, weights: Mapping[str, list[Float32]]) -> None:
        """Test with these weights from now on; see `run`."""
        names = {spec.name for spec in self.net.definition.layers}
        self.net.load_arrays({name: blobs for name, blobs in weights.items() if name in names})

    @torch.no_grad()
    def run(
        self, weights: Mapping[str, list[Float32]], world: World, *, with_loss: bool
    ) -> tuple[Outputs, float | None]:
        """Test with some weights.

        Args:
            weights: of the net in training, by layer.
            world: its processes take one batch after the other.
            with_loss: whether the sum of the losses is computed.

        Returns:
            The mean of every output, and of the loss.
        """
        self.take(weights)
        numbers = range(self.passes + world.shard.rank, self.passes + self.count, world.shard.size)
        self.passes += self.count
        found = {}
        for number, batch in zip(numbers, self.batches.over(numbers), strict=True):
            there = {name: blob.to(world.device) for name, blob in batch.items()}
            loss, tops = self.net.loss(there) if with_loss else (None, self.net(there))
            ordered = {name: tops[name] for name in self.net.outputs if name in tops}
            found[number] = (None if loss is None else float(loss), shown(ordered))
        passes = {number: one for part in world.gather(found) for number, one in part.items()}
        results = [passes[number] for number in sorted(passes)]
        losses = [loss for loss, _ in results if loss is not None]
        return _averaged([outputs for _, outputs in results]), _mean(losses) if losses else None


def shown(tops: dict[str, Tensor]) -> Outputs:
    """The values of output blobs; of large ones the mean, of empty ones nothing."""
    return {
        name: tuple(top.flatten().tolist()) if top.numel() <= _MOST_VALUES else (float(top.mean()),)
        for name, top in tops.items()
        if top.numel()
    }


def text_of(outputs: Outputs) -> str:
    """A line of all values: "accuracy = 0.91, loss = 0.24"."""
    return ", ".join(
        f"{name}{f'[{i}]' if len(values) > 1 else ''} = {value:.6g}"
        for name, values in outputs.items()
        for i, value in enumerate(values)
    )


def _averaged(passes: Sequence[Outputs]) -> Outputs:
    columns: dict[str, list[tuple[float, ...]]] = {}
    for outputs in passes:
        for name, values in outputs.items():
            columns.setdefault(name, []).append(values)
    return {name: _average(rows) for name, rows in columns.items()}


def _average(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    if len({len(row) for row in rows}) > 1:  # a number of values that differs from batch to batch
        rows = [(_mean(row),) for row in rows]
    return tuple(_mean(column) for column in zip(*rows, strict=True))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
