"""Training step by step, as Caffe's solvers do it.

One iteration: `iter_size` forward and backward passes whose gradients add up; the sum is clipped by its norm
over all parameters, divided by `iter_size`, joined by the decay; the update rule makes a step of it.
Source: BVLC Caffe 1.0, `solver.cpp`, `sgd_solver.cpp`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..caffe_torch import CaffeNet, Learnable
from ..errors import InputError, ModelError
from ..files.atomic import commit
from ..files.preflight import preflight
from ..formats.caffe.caffemodel import NewLayer, read_weights
from .definition import SolverDefinition
from .rates import LARGEST_RATE, Schedule
from .rules import decay, rule_of
from .snapshot import Snapshot, check_history
from .storage import STORAGES, Write, read_state

Batch = Mapping[str, Tensor]
#: From a batch to the weighted loss and the net's outputs.
LossFunction = Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]


class DivergedError(ModelError):
    """Numbers of a training have grown beyond all bounds."""


@dataclass(frozen=True)
class Iteration:
    """What one iteration showed.

    Attributes:
        index: its number, from 0.
        loss: weighted loss before the update, mean over the passes.
        rate: learning rate of the update.
        outputs: the net's output blobs in each pass.
    """

    index: int
    loss: float
    rate: float
    outputs: Sequence[Mapping[str, Tensor]] = field(repr=False)


class Solver:
    """A net in training.

    Attributes:
        net: the net, in phase TRAIN; its parameters are changed in place.
        definition: the options.
        iteration: number of iterations that are done.
        history: per learnable blob of the net the tensors of the update rule.
        loss: what computes the net's loss and outputs.
    """

    def __init__(self, net: CaffeNet, definition: SolverDefinition, loss: LossFunction | None = None) -> None:
        """Begin a training.

        Args:
            net: on the device where it is to be trained.
            definition: the options.
            loss: what computes the net's loss and outputs; None for `net.loss`.

        Raises:
            OptionError: options that Caffe rejects.
        """
        self.net, self.definition = net.train(), definition
        self.loss: LossFunction = loss or net.loss
        self._storage = STORAGES[definition.snapshot_format]
        self._storage.check([spec.name for spec in net.definition.layers])
        self.iteration = 0
        self._rule, self._schedule = rule_of(definition), Schedule(definition)
        self._learnables = net.learnables()
        self.history = [
            tuple(torch.zeros_like(one.tensor, requires_grad=False) for _ in range(self._rule.slots))
            for one in self._learnables
        ]

    def step(self, batches: Sequence[Batch]) -> Iteration:
        """One iteration.

        Args:
            batches: inputs of each pass, `iter_size` of them.

        Raises:
            InputError: another number of batches.
        """
        losses, outputs = self.accumulate(batches)
        rate = self._schedule.rate(self.iteration)
        self._update(rate)
        self.iteration += 1
        return Iteration(self.iteration - 1, sum(losses) / len(losses), rate, outputs)

    def accumulate(self, batches: Sequence[Batch]) -> tuple[list[float], list[Mapping[str, Tensor]]]:
        """The passes of one iteration, without the update: adds gradients to those of the parameters.

        Returns:
            The weighted loss and the outputs of each pass.
        """
        if len(batches) != self.definition.iter_size:
            raise InputError(f"{len(batches)} batches given for an iter_size of {self.definition.iter_size}")
        losses: list[float] = []
        outputs: list[Mapping[str, Tensor]] = []
        for batch in batches:
            loss, tops = self.loss(batch)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
            outputs.append({name: top.detach() for name, top in tops.items()})
        return losses, outputs

    @torch.no_grad()
    def _update(self, rate: float) -> None:
        definition = self.definition
        gradients = [_gradient(one) for one in self._learnables]
        _clip(gradients, definition.clip_gradients)
        for one, gradient, history in zip(self._learnables, gradients, self.history, strict=True):
            gradient.div_(definition.iter_size)
            regularization = decay(definition, one.tensor, one.decay_mult)
            if regularization is not None:
                gradient.add_(regularization)
            own_rate = rate * one.lr_mult
            if not abs(own_rate) <= LARGEST_RATE:
                raise DivergedError(f"the learning rate of layer {one.layer!r} is {own_rate:g}")
            one.tensor.sub_(self._rule.update(definition, own_rate, self.iteration, gradient, history))
            one.tensor.grad = None

    def check(self) -> None:
        """Look at the weights, which are to be kept.

        Raises:
            DivergedError: some are NaN or infinite.
        """
        for one in self._learnables:
            if not bool(one.tensor.isfinite().all()):
                raise DivergedError(
                    f"after {self.iteration} iterations weights of layer {one.layer!r} are NaN or infinite"
                )

    # ---- snapshots

    def snapshot(
        self, prefix: str | Path | None = None, extra: Mapping[str, Write] | None = None
    ) -> tuple[Path, ...]:
        """Write weights and state as `PREFIX_iter_N.caffemodel` and `.solverstate`, over older ones.

        Args:
            prefix: None for the definition's `snapshot_prefix`.
            extra: files to write with these, by what stands in their names for `.caffemodel`.

        Returns:
            The paths of weights and state, then those of the extra files.

        Raises:
            OutputError: they cannot be written; older ones are as they were.
        """
        stem = f"{self.definition.snapshot_prefix if prefix is None else prefix}_iter_{self.iteration}"
        weights, state = self._files(stem)
        ordered = [slot for slots in zip(*self.history, strict=True) for slot in slots]
        snapshot = Snapshot(
            self.iteration,
            str(weights),
            tuple(tensor.cpu().float().numpy() for tensor in ordered),
            self._schedule.steps,
        )
        arrays, net = self.net.arrays(), self.net.definition
        layers = [NewLayer(s.name, s.type, arrays.get(s.name, ()), s.bottoms, s.tops) for s in net.layers]
        files = {
            weights: self._storage.write_weights(layers, net.name),
            state: self._storage.write_state(snapshot),
            **{Path(stem + ending): write for ending, write in (extra or {}).items()},
        }
        commit(files, force=True)
        return tuple(files)

    def _files(self, stem: str) -> tuple[Path, Path]:
        """Where weights and state of a snapshot go."""
        return Path(stem + self._storage.weights), Path(stem + self._storage.state)

    def preflight(self, prefix: Path) -> None:
        """Ask whether a snapshot can be written, before the training.

        Raises:
            OutputError: it cannot.
        """
        weights = sum(array.nbytes for arrays in self.net.arrays().values() for array in arrays)
        state = 4 * sum(slot.numel() for slots in self.history for slot in slots)
        preflight(self._files(f"{prefix}_iter_{self.definition.max_iter}"), sizes=[weights, state])

    def restore(self, state: str | Path) -> None:
        """Go on from a snapshot: weights, history and iteration are those of the file.

        Args:
            state: a `.solverstate`; its weights are looked for at the path that it names, and beside it.

        Raises:
            FormatError: a file is missing or damaged, or of another solver type.
            ModelError: the weights are those of another net.
        """
        path = Path(state)
        snapshot = read_state(path)
        shapes = [tuple(one.tensor.shape) for one in self._learnables] * self._rule.slots
        check_history(snapshot, shapes, path)
        weights = read_weights(snapshot.weights_file(path))
        self.net.load_arrays({layer.name: [blob.array() for blob in layer.blobs] for layer in weights.layers})
        count = len(self._learnables)
        for index, array in enumerate(snapshot.history):
            self.history[index % count][index // count].copy_(torch.from_numpy(array.copy()))
        self.iteration, self._schedule.steps = snapshot.iteration, snapshot.current_step


def _gradient(one: Learnable) -> Tensor:
    """The gradient of the last passes; zeros for blobs that take no part, as the statistics of BatchNorm."""
    return torch.zeros_like(one.tensor) if one.tensor.grad is None else one.tensor.grad


def _clip(gradients: Sequence[Tensor], limit: float) -> None:
    """Scale all gradients alike, so that their common Euclidean norm is at most `limit`."""
    if limit < 0:
        return
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    if float(norm) > limit:
        for gradient in gradients:
            gradient.mul_(limit / norm)
