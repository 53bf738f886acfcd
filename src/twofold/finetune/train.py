"""`train`: a whole training from a solver prototxt, as `caffe train` does it."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..caffe_torch import CaffeNet
from ..errors import ModelError, OptionError, OutputError
from ..formats.caffe.caffemodel import read_weights
from ..formats.caffe.net import NetDefinition
from .data import Batches, Locator, Reader, Request, open_reader
from .definition import SolverDefinition
from .evaluate import Test, Tester, text_of
from .interrupt import stoppable
from .loop import Loop
from .nets import SolverFile, open_solver
from .parallel import World, joined
from .resume import snapshots
from .solver import Solver

Rows = Mapping[str, NDArray[Any]]
Report = Callable[[str], None]


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
    """

    output: Path | None = None
    lr_scale: float = 1.0
    max_iter: int | None = None
    device: str | None = None
    resume: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lr_scale) and self.lr_scale > 0):
            raise OptionError(f"lr_scale must be a positive number, got {self.lr_scale}")
        if self.max_iter is not None and self.max_iter < 1:
            raise OptionError(f"max_iter must be at least 1, got {self.max_iter}")
        if self.resume and self.force:
            raise OptionError("resume goes on from snapshots, force begins anew; choose one")

    def apply(self, definition: SolverDefinition) -> SolverDefinition:
        """The solver's options with these."""
        return replace(
            definition,
            base_lr=definition.base_lr * self.lr_scale,
            max_iter=definition.max_iter if self.max_iter is None else self.max_iter,
        )


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        iterations: number of iterations that are done, those before a resumption among them.
        loss: mean of the last losses; None if nothing was left to do.
        tests: what the tests showed.
        files: what the last snapshot wrote: weights and solver state.
        seconds: time of this run.
        seed: what all that is random followed from.
        resumed_from: the solver state that it went on from.
        stopped_by: number of the signal that ended it early.
        notes: what is unusual, or not done as Caffe does it.
        rank: number of this process; the first one writes and speaks for all.
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
    rank: int = 0

    def __str__(self) -> str:
        loss = "" if self.loss is None else f", loss {self.loss:.6g}"
        lines = [f"{self.iterations} iterations{loss}, {self.seconds:.1f} s"]
        last = {test.net: test for test in self.tests}
        lines += [f"Test net #{net}: {text_of(test.outputs)}" for net, test in last.items()]
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


def train(
    solver: str | Path,
    weights: str | Path | Sequence[str | Path] = (),
    options: TrainOptions | None = None,
    *,
    train_data: Rows | None = None,
    test_data: Rows | None = None,
    report: Report | None = None,
) -> Outcome:
    """Train a Caffe net from its solver, with Caffe's numbers, and write Caffe's snapshots.

    Files that the solver and its nets name are looked for in the working directory, as Caffe does, and else
    in the solver's folder. Ctrl-C finishes the iteration and writes a snapshot. A training that is resumed
    gives the same weights, bit for bit on a CPU, as one that was not interrupted.

    Under `torchrun` the processes share every batch: `batch_size` is that of all together, where Caffe with
    several GPUs would use it for each. BatchNorm normalises each process's part by its own statistics, as
    Caffe does, and the first process's are stored.

    Args:
        solver: the solver's prototxt.
        weights: caffemodels to begin with; layers that they lack keep their fillers' values. None of them
            is read where a training is resumed.
        options: what may differ from what the solver says.
        train_data: rows for tops of Input and MemoryData layers (or of any data layer, then instead of what
            it names), by the top's name; they are taken in order, round and round.
        test_data: the same for the test nets.
        report: gets the lines of the log; None prints them to stderr.

    Returns:
        What came of it.

    Raises:
        TwofoldError: files are missing or do not fit, or options are refused; says what to do.
    """
    options = options or TrainOptions()
    path, started = Path(solver), time.monotonic()
    with ExitStack() as stack:
        world = stack.enter_context(joined(options.device))
        devices = [world.device] if world.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices))
        say = (report or _to_stderr) if world.first else _to_nobody
        locate = Locator(path.parent)
        file = open_solver(path, locate)
        definition = options.apply(file.definition)
        if definition.max_iter < 1:
            raise OptionError(f"{path}: max_iter is missing; state it there, or give --max-iter")
        prefix = _prefix(path, definition, options.output)
        state = _state(prefix, options, world, say)
        seed = definition.random_seed if definition.random_seed >= 0 else secrets.randbits(31)
        seed = world.gather(seed)[0]
        maker = _Maker(file, locate, seed, world, stack)
        net, batches = maker.net(file.train, "TRAIN", train_data)
        testers = [
            Tester(*maker.net(one, "TEST", test_data), count)
            for one, count in zip(file.tests, definition.test_iter, strict=True)
        ]
        notes = [*file.notes, *locate.notes]
        if state is None:
            notes += _load(net, _named(weights, definition, locate))
        loop = Loop(Solver(net, definition, world.loss_of(net)), batches, testers, world, prefix, seed, say)
        if state is not None and not loop.restore(state):
            notes.append(f"{state} has no .resume file beside it, so data and random numbers begin anew")
        for note in notes:
            say(f"note: {note}")
        with stoppable(say) as stop:
            loop.run(stop)
        return Outcome(
            loop.solver.iteration,
            loop.loss,
            tuple(loop.tests),
            loop.files,
            round(time.monotonic() - started, 3),
            loop.seed,
            state,
            stop.signal,
            tuple(notes),
            world.share.rank,
        )


class _Maker:
    """Makes the nets of a training, each with its data."""

    def __init__(self, file: SolverFile, locate: Locator, seed: int, world: World, stack: ExitStack) -> None:
        self._file, self._locate, self._seed, self._world, self._stack = file, locate, seed, world, stack

    def net(self, net: NetDefinition, phase: str, rows: Rows | None) -> tuple[CaffeNet, Batches]:
        """A net with its fillers' values, and its batches."""
        # A test is shared by whole batches.
        share = self._world.share if phase == "TRAIN" else None
        readers = self._readers(net, phase, rows or {})
        batches = self._stack.enter_context(Batches(readers, share))
        shapes = batches.shapes()
        made = CaffeNet(net, shapes=shapes, seed=self._seed).to(self._world.device)
        unread = [name for name in made.inputs if name not in shapes]
        assert not unread, f"Bug: nothing reads {unread}"
        return made, batches

    def _readers(self, net: NetDefinition, phase: str, rows: Rows) -> list[Reader]:
        sources = [spec for spec in net.layers if not spec.bottoms and spec.type not in _OWN]
        tops = {top for spec in sources for top in spec.tops}
        for name in rows:
            if name not in tops:
                raise OptionError(f"data are given for {name!r}, which no data layer has: {sorted(tops)}")
        if len({len(one) for one in rows.values()}) > 1:
            counts = {name: len(one) for name, one in rows.items()}
            raise OptionError(f"the data that are given differ in their rows: {counts}")
        return [open_reader(Request(spec, phase, self._locate, rows), self._seed) for spec in sources]


#: Layers without bottoms that make their tops themselves.
_OWN = ("DummyData", "Parameter")


def _prefix(path: Path, definition: SolverDefinition, output: Path | None) -> Path:
    """What the names of snapshots begin with; the solver's own name where it says none."""
    prefix = definition.snapshot_prefix
    folder, name = Path(prefix).parent, Path(prefix).name
    if not prefix or prefix.endswith("/"):
        folder, name = Path(prefix), path.stem
    return (folder if output is None else output) / name


def _state(prefix: Path, options: TrainOptions, world: World, say: Report) -> Path | None:
    """The snapshot to go on from.

    Raises:
        OutputError: there are snapshots, and neither resume nor force was asked for.
    """
    found = snapshots(prefix)
    if options.resume:
        if not found:
            say(f"note: no snapshot {prefix}_iter_N to resume from; the training begins at the beginning")
        return found[-1] if found else None
    if found and not options.force:
        raise OutputError(
            f"{found[-1]}: a training of this name is there already; --resume goes on with it, --force "
            "begins anew and overwrites its snapshots, and -o takes another folder"
        )
    world.gather(None)  # no process writes before all have looked
    return None


def _named(
    weights: str | Path | Sequence[str | Path], definition: SolverDefinition, locate: Locator
) -> list[Path]:
    """The files to begin with: those that the solver names, then those of the caller, as Caffe loads them."""
    given = [weights] if isinstance(weights, (str, Path)) else list(weights)
    named = [name.strip() for text in definition.weights for name in text.split(",")]
    return [*(locate(name, "the solver's weights") for name in named), *map(Path, given)]


def _load(net: CaffeNet, files: Iterable[Path]) -> list[str]:
    """Copy weights into a net; gives notes on what has no counterpart.

    Raises:
        FormatError: a file cannot be read.
        ModelError: the weights are of another net.
    """
    have = net.arrays()
    filled: set[str] = set()
    notes = []
    for path in files:
        entries = {entry.name: entry for entry in read_weights(path).layers if entry.blobs}
        fitting = [name for name in entries if name in have]
        if not fitting:
            raise ModelError(
                f"{path} holds weights of other layers than the net to train: {_some(entries)}; it has "
                f"{_some(have)}"
            )
        net.load_arrays({name: [blob.array() for blob in entries[name].blobs] for name in fitting})
        filled.update(fitting)
        unused = [name for name in entries if name not in have]
        if unused:
            notes.append(
                f"{path}: the net to train has no layers {_some(unused)}; their weights are not used"
            )
    unfilled = [name for name in have if name not in filled]
    if unfilled and filled:
        notes.append(f"no weights for {_some(unfilled)}; they begin with their fillers' values")
    return notes


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(map(repr, listed[:most])) + more


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _to_nobody(text: str) -> None:
    """For processes that another one speaks for."""
