"""`train`: a whole training from a solver prototxt, as `caffe train` does it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..caffe_torch import CaffeNet
from ..calibration.memory import SHARE, free_memory
from ..distributed import World, joined
from ..errors import MissingExtraError, ModelError, OptionError, OutputError
from ..formats.base import reserved
from ..formats.caffe.caffemodel import read_weights
from ..formats.caffe.net import NetDefinition
from ..system import is_file
from ..terminal import say_lines
from .data import Batches, Locator, Reader, Request, open_reader
from .definition import SolverDefinition, read_solver
from .evaluate import Tester
from .interrupt import stoppable
from .loop import Loop
from .nets import SolverFile, open_solver
from .options import Outcome, TrainOptions
from .parallel import loss_of
from .resume import Progress, beside, read_progress, snapshots
from .solver import Solver

if TYPE_CHECKING:
    from .int8_net import Int8Net  # needs onnx

Rows = Mapping[str, NDArray[Any]]
Report = Callable[[str], None]


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

    With `qat` the net is trained as it computes in int8, and each snapshot has that form beside it; the
    weights in Caffe's files are those before rounding.

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
        TwofoldError: files are missing or do not fit, or options are rejected; says what to do.
    """
    options = options or TrainOptions()
    rows = {"TRAIN": train_data or {}, "TEST": test_data or {}}
    given = [Path(path) for path in ([weights] if isinstance(weights, (str, Path)) else weights)]
    with joined(options.device) as world:
        # All that uses the group of processes goes with the call.
        return _train(
            solver, given, options, rows, world, (report or say_lines) if world.first else _to_nobody
        )


def _train(
    solver: str | Path, weights: Sequence[Path], options: TrainOptions, rows: Mapping[str, Rows],
    world: World, say: Report,
) -> Outcome:  # fmt: skip
    started = time.monotonic()
    with ExitStack() as stack:
        devices = [world.device] if world.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices))
        file = open_solver(solver, Locator(Path(solver).parent), options.apply)
        prefix = _prefix(file.path, file.definition, options.output)
        stack.enter_context(reserved([prefix.with_name(f"{prefix.name}_iter")]))
        state = _state(prefix, options, world, say)
        progress = _progress(state, file.definition, world)
        _reject_other_kind(progress, state, options, world)
        maker = _Maker(file, rows, progress.seed, world, stack)
        loop, notes = _begin(maker, weights, prefix, progress, state, say, qat=options.qat)
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
            tuple((at, loss) for at, loss, _ in loop.course),
            tuple((at, rate) for at, _, rate in loop.course),
            world.shard.rank,
            options.qat,
        )


def _begin(
    maker: _Maker, weights: Sequence[Path], prefix: Path, progress: Progress, state: Path | None,
    say: Report, *, qat: bool,
) -> tuple[Loop, list[str]]:  # fmt: skip
    """The training at its beginning, or where a snapshot left it; and notes."""
    file, world = maker.file, maker.world
    net, batches = maker.make(file.train, "TRAIN")
    testers = [
        Tester(*maker.make(one, "TEST"), count, number)
        for number, (one, count) in enumerate(zip(file.tests, file.definition.test_iter, strict=True))
    ]
    notes = []
    if state is None:
        notes = _load(net, [*_named(file.definition, file.locate), *weights])
    elif not is_file(beside(state)):
        notes = [f"{state} has no .resume file beside it, so data and random numbers begin anew"]
    solver = Solver(net, file.definition, loss_of(world, net))
    if world.first:
        solver.preflight(prefix)
    if state is not None:
        solver.restore(state)
    net.check()
    for tester in testers:
        tester.take(net.arrays())
        tester.net.check()
    int8 = None
    if qat:
        int8, testers, unmeasured = _start_qat(net, batches, testers, progress, world)
        solver.loss, notes = int8.loss, [*notes, *unmeasured]
    loop = Loop(solver, batches, testers, world, prefix, progress, say, int8)
    return loop, [*file.notes, *file.locate.notes, *notes]


def _start_qat(
    net: CaffeNet, batches: Batches, testers: Sequence[Tester], progress: Progress, world: World
) -> tuple[Int8Net, list[Tester], list[str]]:
    """See `qat.start`, which needs what only training in int8 needs."""
    try:
        from .qat import start  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("quantization in training", "onnx and ONNX Runtime", "qat") from error
    return start(net, batches, testers, progress.int8, world.device)


def _progress(state: Path | None, definition: SolverDefinition, world: World) -> Progress:
    """Where a snapshot left the training, or its beginning: with the solver's seed, or one for all processes.

    Raises:
        FormatError: the file cannot be read.
    """
    if state is not None and is_file(beside(state)):
        return read_progress(beside(state))
    seed = definition.random_seed if definition.random_seed >= 0 else secrets.randbits(31)
    return Progress(int(world.gather(seed)[0]))


def _reject_other_kind(progress: Progress, state: Path | None, options: TrainOptions, world: World) -> None:
    """Reject to train in int8 in several processes, and to go on in another way than it was begun.

    Raises:
        OptionError: it is so.
    """
    if options.qat and world.several:
        raise OptionError(
            f"{world.shard.size} processes cannot train in int8 (--qat): each would see ranges of its own; "
            "start one process, or recover --qat, which can"
        )
    if state is not None and is_file(beside(state)) and options.qat != bool(progress.int8):
        this, other = ("", "out") if progress.int8 else ("out", "")
        raise OptionError(
            f"{state} is of a training with{this} --qat; resume it with{this} --qat, or begin one "
            f"with{other} it from this caffemodel (--weights), in another folder (-o)"
        )


@dataclass(frozen=True)
class _Maker:
    """Makes the nets of a training, each with its data."""

    file: SolverFile
    rows: Mapping[str, Rows]
    seed: int
    world: World
    stack: ExitStack

    def make(self, net: NetDefinition, phase: str) -> tuple[CaffeNet, Batches]:
        """A net with its fillers' values, and its batches."""
        # A test is shared by whole batches.
        shard = self.world.shard if phase == "TRAIN" else None
        batches = self.stack.enter_context(Batches(self._readers(net, phase), shard))
        room = int(SHARE * free_memory())  # a training may begin with fillers' values alone
        made = CaffeNet(net, shapes=batches.shapes(), seed=self.seed, room=room)
        return made.placed(self.world.device), batches

    def _readers(self, net: NetDefinition, phase: str) -> list[Reader]:
        rows = self.rows[phase]
        sources = [spec for spec in net.layers if not spec.bottoms and spec.type not in _OWN]
        tops = {top for spec in sources for top in spec.tops}
        for name in rows:
            if name not in tops:
                raise OptionError(f"data are given for {name!r}, which no data layer has: {sorted(tops)}")
        counts = {name: len(one) for name, one in rows.items()}
        if len(set(counts.values())) > 1:
            raise OptionError(f"the data that are given differ in their rows: {counts}")
        return [open_reader(Request(spec, phase, self.file.locate, rows), self.seed) for spec in sources]


#: Layers without bottoms that make their tops themselves.
_OWN = ("DummyData", "Parameter")


def snapshot_prefix(solver: str | Path, output: Path | None = None) -> Path:
    """What the names of a training's snapshots begin with, behind their folder.

    Args:
        solver: the solver's prototxt.
        output: folder for the snapshots; None for where the solver says.

    Raises:
        FormatError: it cannot be read, or is no solver.
        OptionError: a value that Caffe rejects.
    """
    return _prefix(Path(solver), read_solver(solver), output)


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


def _named(definition: SolverDefinition, locate: Locator) -> list[Path]:
    """The weights that the solver itself names; Caffe loads them before those of the command line."""
    names = [name.strip() for text in definition.weights for name in text.split(",")]
    return [locate(name, "the solver's weights") for name in names]


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
        arrays = {name: [blob.array() for blob in entries[name].blobs] for name in fitting}
        for name, blobs in arrays.items():
            bad = sum(int((~np.isfinite(blob)).sum()) for blob in blobs)
            if bad:
                raise ModelError(
                    f"{path}: layer {name!r}: {bad} of its weights are NaN or infinite; repair it"
                )
        net.load_arrays(arrays)
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


def _to_nobody(text: str) -> None:
    """For processes that another one speaks for."""
