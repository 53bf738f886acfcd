"""The training: what the original gives is the teacher_data, and what is held out is the validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_optimizer import SOAP
from torch import Tensor

from ..calibration.inputs import Batch, Inputs
from ..calibration.measure import OutputErrorMetric
from ..calibration.memory import memory_kept
from ..calibration.runner import Outputs, Runner
from ..compare import are_classes
from ..distributed import World
from ..errors import ModelError, option
from ..progress import track
from .loss import Loss, Scales, Spread
from .options import RecoverOptions
from .student import Student

#: Learning rates that are tried where the user names none.
RATES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
#: Each for this part of the steps, but not fewer than these.
_TRIAL, _FEWEST = 16, 8

#: Longest axis of a weight whose directions are told apart: its matrix is decomposed every ten steps.
_LARGEST_BASIS = 2048
#: The course of the loss has about so many points.
_POINTS = 100


@dataclass(frozen=True)
class TrainingHistory:
    """The course of a training.

    Attributes:
        errors: (step, error on the held-out samples) of every measurement.
        losses: (step, mean loss of the steps since the point before).
    """

    errors: tuple[tuple[int, float], ...]
    losses: tuple[tuple[int, float], ...]


class TeacherData:
    """Samples with what the original gives for them.

    Attributes:
        inputs: the samples.
        spreads: what each output varies, and each hint.
    """

    def __init__(self, teacher: Runner, inputs: Inputs, world: World, hints: Collection[str] = ()) -> None:
        """Ask the original; each process asks for a part, and gets to know all.

        Args:
            teacher: the original.
            inputs: the samples.
            world: the processes.
            hints: those of the teacher's outputs whose errors are learned from, but not measured.
        """
        self.inputs, self._hints = inputs, tuple(hints)
        own = list(inputs)[world.shard.rank :: world.shard.size]
        shards = world.gather([dict(teacher.run(batch)) for batch in track(own, "asking the original")])
        answers = [shards[number % len(shards)][number // len(shards)] for number in range(len(inputs))]
        for name, value in answers[0].items():
            if len(value) != min(inputs.batch, inputs.count):
                raise ModelError(
                    f"output {name!r} has {len(value)} rows for a batch of {inputs.batch} samples, so it "
                    f"cannot be told which are whose; take them one by one ({option('batch=1', '--batch 1')})"
                )
        # One after the other, and each thrown away: hints are large.
        self._answers = {
            name: np.concatenate([one.pop(name) for one in answers]) for name in tuple(answers[0])
        }
        total = OutputErrorMetric()
        for _, answer in self._once():  # in parts: it computes in float64
            total.add("", answer, {name: np.zeros_like(value) for name, value in answer.items()})
        self.spreads = {
            name: Spread(variance, float(np.mean([float(row.var()) for row in self._answers[name]])))
            for name, variance in total.variances("").items()
        }

    def batches(self, size: int, seed: int, part: range) -> Iterator[tuple[Batch, Outputs]]:
        """Parts of shuffled batches without end: those positions of each."""
        order = self._order(seed)
        while True:
            rows = [next(order) for _ in range(size)]
            yield self._at(rows[part.start : part.stop])

    def _order(self, seed: int) -> Iterator[int]:
        rng = np.random.default_rng(seed)
        while True:
            yield from rng.permutation(self.inputs.count).tolist()

    def _at(self, rows: NDArray[np.int64] | list[int]) -> tuple[Batch, Outputs]:
        return (
            {name: array[rows] for name, array in self.inputs.arrays.items()},
            {name: array[rows] for name, array in self._answers.items()},
        )

    def error(self, student: Student) -> float:
        """Relative error of the student's outputs over all samples."""
        measure = OutputErrorMetric()
        with torch.no_grad():
            for batch, answer in self._once():
                found = student.outputs(batch)
                measure.add(
                    "",
                    {name: answer[name] for name in self._graded},
                    {name: found[name].cpu().numpy() for name in self._graded},
                )
        return measure.error("")

    @property
    def _graded(self) -> list[str]:
        return [name for name in self._answers if name not in self._hints]

    def scales(self, loss: Loss, wish: bool | None) -> Scales:
        """By what the parts of a loss are measured; a nat counts so that both halves weigh alike now.

        So does each hint: its usual error counts as much as that of an output, or less where it is smaller.

        Args:
            loss: of the student as it is.
            wish: whether outputs name classes, if the user said so.
        """
        names = [
            name
            for name in self._graded
            if wish is not False
            and are_classes(self._answers[name], alone=wish is True or len(self._graded) == 1)
        ]
        errors: dict[str, list[Tensor]] = {}
        nats = dict.fromkeys(names, 0.0)
        with torch.no_grad():
            for batch, answer in self._once():
                found, divergences = loss.parts(batch, answer, names)
                for name, error in found.items():
                    errors.setdefault(name, []).append(error)
                for name, value in divergences.items():
                    nats[name] += len(answer[name]) * float(value)
        known = {name: torch.cat(parts) for name, parts in errors.items()}
        weights = {name: float(known[name].sum()) / nats[name] for name in names if nats[name] > 0}
        usual = {name: float(error.median()) for name, error in known.items() if name not in weights}
        outputs = [float(known[name].median()) for name in self._graded if name in known]
        output = float(np.mean(outputs)) if outputs else 0.0
        hints = {name: output / max(usual.get(name, 0.0), output) if output else 0.0 for name in self._hints}
        return Scales(usual, weights, hints)

    def _once(self) -> Iterator[tuple[Batch, Outputs]]:
        for start in range(0, self.inputs.count, self.inputs.batch):
            yield self._at(np.arange(start, min(start + self.inputs.batch, self.inputs.count)))


def train(
    student: Student,
    teacher_data: TeacherData,
    validation: TeacherData,
    options: RecoverOptions,
    world: World,
) -> TrainingHistory:
    """Train; gives losses and held-out errors by step and leaves the best weights in the student."""
    try:
        with memory_kept():
            return _train(student, teacher_data, validation, options, world)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # over gradients without bounds
        raise ModelError(
            "numbers of the training grow beyond bounds; look at the weights and the range of the inputs "
            f"(mean and scale), or lower the rate ({option('rate')})"
        ) from error


def _train(
    student: Student,
    teacher_data: TeacherData,
    validation: TeacherData,
    options: RecoverOptions,
    world: World,
) -> TrainingHistory:
    run = _Run(student, teacher_data, validation, options, world)
    assert options.steps is not None, "Bug: options are not sized"
    if options.steps == 0:
        return TrainingHistory(((0, run.before),), ())
    if options.rate is not None:
        return run(options.rate, options.steps, options.checks)
    return run(_rate_that_helps_most(run, student, options.steps), options.steps, options.checks)


def _rate_that_helps_most(run: _Run, student: Student, steps: int) -> float:
    """The learning rate whose short run, which ends with a rate of zero, lowers the held-out error most.

    How far a net may be moved differs by orders of magnitude from net to net. Rates fall until one helps and
    the next helps less; the student is left as it was.
    """
    start = [p.detach().clone() for p in student.parameters()]
    best: tuple[float, float] | None = None
    for rate in track(RATES, "choosing the rate"):
        (_, before), *_, (_, after) = run(rate, max(_FEWEST, steps // _TRIAL), checks=1).errors
        _copy(start, student.parameters())
        if best is not None and after >= best[0]:
            break
        if after < before:
            best = (after, rate)
    return RATES[-1] if best is None else best[1]


class _Run:
    """Runs of the optimizer, on the same batches each."""

    def __init__(
        self,
        student: Student,
        teacher_data: TeacherData,
        validation: TeacherData,
        options: RecoverOptions,
        world: World,
    ) -> None:
        assert options.batch is not None, "Bug: options are not sized"
        self._student, self._lesson, self._exam, self._world = student, teacher_data, validation, world
        loss = Loss(student, teacher_data.spreads, bf16=options.bf16)
        # One process speaks for all, so that they keep the same scales.
        loss.scales = world.gather(validation.scales(loss, options.classes))[0]
        self._loss_of = world.wrapped(loss)
        self._batch, self._seed = options.batch, options.seed
        self._part = world.shard.of(options.batch, "recovery")
        self.before = float(world.gather(validation.error(student))[0])
        if not math.isfinite(self.before):
            raise ModelError(
                f"the error of the decomposed model is {self.before}: its outputs have no bounds or are NaN; "
                "look at the weights, and at the range of the inputs (mean and scale)"
            )

    def __call__(self, rate: float, steps: int, checks: int) -> TrainingHistory:
        """Train; leaves the best weights in the student."""
        parameters = self._student.parameters()
        # The directions in which factors may move differ by orders of magnitude in what they do to the
        # outputs, and do not lie along the axes, along which Adam scales.
        optimizer = SOAP(
            [{"params": [p], "lr": rate * _scale(p)} for p in parameters],
            betas=(0.9, 0.99),
            weight_decay=0.0,
            max_precondition_dim=_LARGEST_BASIS,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate_of(steps))
        curve = [(0, self.before)]
        losses = _Losses(self._world, math.ceil(steps / _POINTS))
        best = [p.detach().clone() for p in parameters]
        every = math.ceil(steps / checks)
        batches = self._lesson.batches(self._batch, self._seed, self._part)
        for step in track(range(1, steps + 1), f"training the factors at rate {rate:g}"):
            optimizer.zero_grad()
            loss = self._loss_of(*next(batches))
            loss.backward()
            losses.add(step, loss)
            optimizer.step()
            schedule.step()
            if step % every == 0 or step == steps:
                error = float(self._world.gather(self._exam.error(self._student))[0])
                if error < min(known for _, known in curve):
                    best = [p.detach().clone() for p in parameters]
                curve.append((step, error))
        _copy(best, parameters)
        return TrainingHistory(tuple(curve), tuple(losses.points))


class _Losses:
    """The mean loss of every few steps, over all processes; read seldom, since a GPU is waited for then."""

    def __init__(self, world: World, every: int) -> None:
        self.points: list[tuple[int, float]] = []
        self._world, self._every = world, every
        self._waiting: list[Tensor] = []

    def add(self, step: int, loss: Tensor) -> None:
        self._waiting.append(loss.detach())
        if step % self._every == 0:
            (mean,) = self._world.mean(float(torch.stack(self._waiting).mean()))
            self.points.append((step, mean))
            self._waiting.clear()


def _copy(values: list[Tensor], parameters: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def _scale(parameter: Tensor) -> float:
    """Root mean square, for the learning rate; small where a weight is nearly zero."""
    return max(float(parameter.detach().square().mean().sqrt()), 1e-8)


def _rate_of(steps: int) -> Callable[[int], float]:
    warm = math.ceil(steps / 10)
    return lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0))))
