"""The iterations of a training, with what stands between them: display, tests, snapshots.

Source: BVLC Caffe 1.0, `solver.cpp`, `Step` and `Solve`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import torch
from torch import Tensor

from ..calibration.memory import memory_kept
from ..distributed import World
from ..errors import ModelError, TwofoldError
from ..progress import meter
from .data import Batches
from .evaluate import Test, Tester, shown, text_of
from .interrupt import Stop
from .resume import SUFFIX, Progress, set_states, states_of
from .solver import DivergedError, Iteration, Solver
from .storage import Write

if TYPE_CHECKING:
    from .int8_net import Int8Net  # needs onnx

#: What stands in the name of a snapshot's int8 form for `.caffemodel`.
INT8 = "_int8.onnx"
Report = Callable[[str], None]
#: The course of a training that shows no losses has about so many points.
_POINTS = 100


class Loop:
    """A training.

    Attributes:
        solver: the net in training.
        loss: mean of the last losses; None before the first iteration.
        tests: what the tests showed.
        course: (iteration, mean of the last losses, learning rate), wherever the log shows it; where it never
            does, at about a hundred iterations.
        files: what the last snapshot wrote.
        seed: what all that is random follows from.
    """

    def __init__(
        self,
        solver: Solver,
        batches: Batches,
        testers: Sequence[Tester],
        world: World,
        prefix: Path,
        progress: Progress,
        report: Report,
        int8: Int8Net | None = None,
    ) -> None:
        """Take up a training, at its beginning or where a snapshot left it.

        Args:
            solver: at that point.
            batches: what the net is trained with.
            testers: the test nets.
            world: the processes that train together.
            prefix: of the snapshots' names.
            progress: all else that belongs to that point.
            report: gets the lines of the log.
            int8: the int8 form of the net, where it is trained in int8.
        """
        self.solver = solver
        self.tests: list[Test] = []
        self.course: list[tuple[int, float, float]] = []
        self.files: tuple[Path, ...] = ()
        self._batches, self._testers, self._world = batches, testers, world
        self._prefix, self._report, self._int8 = prefix, report, int8
        self.seed, self._passes = progress.seed, progress.passes
        self._losses = deque(progress.losses, maxlen=solver.definition.average_loss)
        for tester, passes in zip(testers, progress.test_passes, strict=False):
            tester.passes = passes
        if world.shard.rank < len(progress.states):
            set_states(solver.net, progress.states[world.shard.rank], world.device)
        #: Of what is in files; a training that has not begun is in none.
        self._saved = solver.iteration or None
        #: The last of these that a loss which is a number came from.
        self._sound: int | None = None
        self._clock = (solver.iteration, time.monotonic())

    @property
    def loss(self) -> float | None:
        """Mean of the last losses."""
        return sum(self._losses) / len(self._losses) if self._losses else None

    def run(self, stop: Stop) -> None:
        """Train up to the solver's `max_iter`, or until asked to stop.

        Raises:
            InputError: data cannot be read.
            ModelError: the loss or the weights are no numbers any more; snapshots are from before.
            OutputError: a snapshot cannot be written.
        """
        try:
            with memory_kept():
                self._run(stop)
        except DivergedError as error:
            kept = "no snapshot" if self._sound is None else f"the snapshot {self._prefix}_iter_{self._sound}"
            bad = (
                f"; remove {self._prefix}_iter_{self._saved}, which is not"
                if self._saved != self._sound
                else ""
            )
            raise ModelError(
                f"{error}; lower the learning rate, or set clip_gradients; {kept} is from before{bad}"
            ) from error

    def _run(self, stop: Stop) -> None:
        definition, solver = self.solver.definition, self.solver
        batches = self._batches.over(count(self._passes))
        with closing(batches), self._bar() as advance:
            while solver.iteration < definition.max_iter:
                if definition.test_initialization or solver.iteration:
                    self._test_if_due()
                result = self._step(batches)
                asked = self._remember(result, stop)
                advance(f"loss {self.loss:.4g}")
                if asked:
                    self.snapshot()
                    return
                if definition.snapshot and solver.iteration % definition.snapshot == 0:
                    self.snapshot()
        if definition.snapshot_after_train and self._saved != solver.iteration:
            self.snapshot()
        self._test_if_due()

    def _bar(self) -> AbstractContextManager[Report]:
        """The progress bar, of the first process only."""
        if not self._world.first:
            return nullcontext(lambda text: None)
        return meter("training", self.solver.iteration, self.solver.definition.max_iter)

    def _step(self, batches: Iterator[dict[str, Tensor]]) -> Iteration:
        solver, world = self.solver, self._world
        # What layers draw depends on the iteration alone, so that a resumed training draws the same.
        torch.manual_seed(crc32(f"{self.seed}/{solver.iteration}/{world.shard.rank}".encode()))
        size = solver.definition.iter_size
        passes = [
            {name: blob.to(world.device) for name, blob in batch.items()} for batch in islice(batches, size)
        ]
        self._passes += size
        result = solver.step(passes)
        if self._int8 is not None:
            first = solver.definition.base_lr
            self._int8.learn(result.rate / first if first else 0.0)
        return result

    def _remember(self, result: Iteration, stop: Stop) -> bool:
        """Take the loss down and show it; gives whether any process was asked to stop."""
        loss, asked = self._world.mean(result.loss, float(stop.signal is not None))
        if math.isnan(loss):
            raise DivergedError(f"the loss is not a number in iteration {result.index}")
        self._sound = self._saved
        self._losses.append(loss)
        definition = self.solver.definition
        if result.index % (definition.display or math.ceil(definition.max_iter / _POINTS)) == 0:
            assert self.loss is not None, "Bug: there is no loss after an iteration"
            self.course.append((result.index, self.loss, result.rate))
            if definition.display:
                self._display(result)
        return asked > 0

    def _display(self, result: Iteration) -> None:
        iteration, before = self._clock
        self._clock = (result.index, time.monotonic())
        seconds = max(self._clock[1] - before, 1e-9)
        speed = (
            f", {(result.index - iteration) / seconds:.3g} iterations/s" if result.index > iteration else ""
        )
        outputs = text_of(shown(dict(result.outputs[-1])))
        self._report(
            f"Iteration {result.index}: loss = {self.loss:.6g}, lr = {result.rate:.6g}{speed}"
            + (f"; train net: {outputs}" if outputs else "")
        )

    def _test_if_due(self) -> None:
        definition, iteration = self.solver.definition, self.solver.iteration
        if not definition.test_interval or iteration % definition.test_interval:
            return
        net = self.solver.net
        self._world.share_buffers(net)
        weights = net.arrays()
        for tester in self._testers:
            outputs, loss = tester.run(weights, self._world, with_loss=definition.test_compute_loss)
            self.tests.append(Test(iteration, tester.number, outputs, loss, tester.int8))
            self._report(f"Iteration {iteration}: {self.tests[-1]}")

    def snapshot(self) -> None:
        """Write a snapshot; the first process does it for all.

        Raises:
            DivergedError: weights are not finite, which a snapshot to go on from would hide.
            OutputError: it cannot be written.
        """
        self.solver.check()
        # As in Caffe with several GPUs, the BatchNorm statistics are those of the first.
        progress = Progress(
            self.seed,
            self._passes,
            tuple(tester.passes for tester in self._testers),
            tuple(self._losses),
            tuple(self._world.gather(states_of(self.solver.net))),
            {} if self._int8 is None else self._int8.state(),
        )
        self._saved = self.solver.iteration
        if self._world.first:
            self._write(progress)
            self._report(f"Iteration {self.solver.iteration}: snapshot {self.files[0]}")

    def _write(self, progress: Progress) -> None:
        resumed: dict[str, Write] = {SUFFIX: progress.write}
        try:
            int8 = {} if self._int8 is None else {INT8: self._int8.writer()}
        except TwofoldError:
            self.solver.snapshot(self._prefix, resumed)  # the training itself is not lost
            raise
        # The file for resuming is this program's own business.
        self.files = tuple(
            path for path in self.solver.snapshot(self._prefix, {**int8, **resumed}) if path.suffix != SUFFIX
        )
