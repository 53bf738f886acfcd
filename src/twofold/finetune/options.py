"""What a caller may ask of a training beyond its solver, and what he gets back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OptionError
from .definition import SolverDefinition
from .evaluate import Test, text_of


@dataclass(frozen=True)
class TrainOptions:
    """What may differ from what the solver says.

    Attributes:
        output: folder for the snapshots; None for where the solver's `snapshot_prefix` says.
        lr_scale: factor of the learning rate; about 0.1 fine-tunes a decomposed net.
        max_iter: iterations in all; None for the solver's.
        device: "cpu", "cuda" or "cuda:1"; None for a GPU where there is one.
        resume: go on from the newest snapshot, if there is any.
        force: begin anew although there are snapshots; they are exchanged one by one.
        qat: train the net as it is in int8, and write that form with every snapshot, as ONNX.
    """

    output: Path | None = None
    lr_scale: float = 1.0
    max_iter: int | None = None
    device: str | None = None
    resume: bool = False
    force: bool = False
    qat: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lr_scale) and self.lr_scale > 0):
            raise OptionError(f"lr_scale must be a positive number, got {self.lr_scale}")
        if self.max_iter is not None and self.max_iter < 1:
            raise OptionError(f"max_iter must be at least 1, got {self.max_iter}")
        if self.resume and self.force:
            raise OptionError("resume goes on from snapshots, force begins anew; choose one")

    def apply(self, definition: SolverDefinition) -> SolverDefinition:
        """The solver's options with these.

        Raises:
            OptionError: neither says how long to train.
        """
        max_iter = definition.max_iter if self.max_iter is None else self.max_iter
        if max_iter < 1:
            raise OptionError("max_iter is missing; state it there, or give --max-iter")
        return replace(definition, base_lr=definition.base_lr * self.lr_scale, max_iter=max_iter)


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        iterations: number of iterations that are done, those before a resumption among them.
        loss: mean of the last losses; None if nothing was left to do.
        tests: what the tests showed.
        files: what the last snapshot wrote: weights and solver state, and the int8 form.
        seconds: time of this run.
        seed: what all that is random followed from.
        resumed_from: the solver state that it went on from.
        stopped_by: number of the signal that ended it early.
        notes: what is unusual, or not done as Caffe does it.
        losses: (iteration, mean of the last losses) wherever the log shows it, in this run; where the solver
            says `display: 0`, at about a hundred iterations.
        rates: (iteration, learning rate) at the same.
        rank: number of this process; the first one writes and speaks for all.
        int8: whether the net was trained as it computes in int8.
    """

    iterations: int
    loss: float | None
    tests: tuple[Test, ...]
    files: tuple[Path, ...]
    seconds: float
    seed: int
    resumed_from: Path | None = None
    stopped_by: int | None = None
    notes: tuple[str, ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    rates: tuple[tuple[int, float], ...] = ()
    rank: int = 0
    int8: bool = False

    def __str__(self) -> str:
        loss = "" if self.loss is None else f", loss {self.loss:.6g}"
        lines = [f"{self.iterations} iterations{loss}, {self.seconds:.1f} s"]
        last = {test.label: test for test in self.tests}
        lines += [f"{label}: {text_of(test.outputs)}" for label, test in last.items()]
        lines.append(
            f"written: {', '.join(map(str, self.files))}" if self.files else "no snapshot was written"
        )
        if self.stopped_by is not None:
            lines.append("stopped early; the same command with --resume goes on from here")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        values = {**asdict(self), "files": [str(path) for path in self.files]}
        values["resumed_from"] = None if self.resumed_from is None else str(self.resumed_from)
        return values
