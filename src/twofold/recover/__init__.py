"""Recovery without labels: the original network teaches the decomposed one.

The factors are trained so that the outputs become those of the original on the user's inputs; everything
else stays as it is. What the original gives is computed once. A part of the inputs is held out, and the
weights that are best on it are kept, be it the first ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..calibrate import CalibrationSource, calibration_inputs, split
from ..calibration.inputs import Batch, Inputs
from ..calibration.measure import OutputError
from ..calibration.runner import Outputs, Runner
from ..calibration.runners import runner_for
from ..errors import InputError, MissingExtraError, ModelError, OptionError
from ..formats.base import Model
from ..planning.text import error_text
from ..progress import track

if TYPE_CHECKING:
    from torch import Tensor

M = TypeVar("M", bound=Model)

#: Values of one step's inputs: two pictures of 3 x 320 x 320, with their activations and gradients.
_BATCH_VALUES = 2 * 3 * 320 * 320
_LARGEST_BATCH = 64
#: Steps with such batches; more with smaller ones.
_STEPS, _MOST_STEPS = 240, 2000
#: Class of a model -> the module here that trains it.
_STUDENTS = {"CaffeModel": "caffe"}


@dataclass(frozen=True)
class RecoverOptions:
    """How the factors are trained.

    Attributes:
        steps: steps of the optimizer (Adam), each on one batch; None for what takes some minutes, which
            depends on the size of a batch.
        rate: learning rate, as a share of the root mean square of each weight; it rises over the first steps
            and falls to zero along a cosine.
        batch: samples per step; None for as many as one step can well hold, which depends on their size.
        checks: how often the held-out error is measured.
        seed: of the order of the samples.
    """

    steps: int | None = None
    rate: float = 3e-3
    batch: int | None = None
    checks: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if min(one for one in (self.steps, self.batch, self.checks) if one is not None) < 1:
            raise OptionError(f"steps, batch and checks are 1 or more, got {self}")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise OptionError(f"the rate is a positive number, got {self.rate}")


class Student(Protocol):
    """A model that is trained in torch."""

    def parameters(self) -> list[Tensor]:
        """What is trained: the convolutions that the original does not have."""

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """The protected outputs, with gradients."""

    def model(self) -> Any:
        """The model with its present weights."""


@dataclass(frozen=True, eq=False)
class Recovery:
    """What came out.

    Attributes:
        model: the trained model.
        before: relative error of its outputs before, on inputs that were not trained on.
        after: the same after.
        curve: (step, error) of every measurement.
        samples: number of samples that were trained on.
        notes: about the inputs.
    """

    model: Any
    before: float
    after: float
    curve: tuple[tuple[int, float], ...]
    samples: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"relative error of the outputs, on held-out inputs: {error_text(self.before)} before, "
            f"{error_text(self.after)} after, trained on {self.samples} samples without labels",
            *self.notes,
        ]
        return "\n".join(lines)


def recover(
    original: Model, decomposed: M, source: CalibrationSource | None = None,
    options: RecoverOptions | None = None,
) -> Recovery:  # fmt: skip
    """Train the factors of a decomposed model to give what the original gives.

    Args:
        original: the model before.
        decomposed: what `decompose` made of it.
        source: the inputs; made-up pictures where it names none.
        options: how.

    Raises:
        ModelError: the models do not belong together, or cannot be trained.
        InputError: there are too few inputs.
        MissingExtraError: PyTorch is not installed.
    """
    source, options = source or CalibrationSource(), options or RecoverOptions()
    teacher = runner_for(original, source.protect)
    student = _student(original, decomposed, teacher.outputs)
    if not student.parameters():
        raise ModelError("the second model has no layer that the first lacks: there is nothing to train")
    inputs = calibration_inputs(teacher, source)
    if inputs.count < 2:
        raise InputError(f"recovery needs at least 2 inputs, got {inputs.count}")
    options = _sized(options, inputs)
    train, held_out = split(inputs.batched(options.batch or 1))
    lesson, exam = _Lesson(teacher, train), _Lesson(teacher, held_out)
    trained = _train(student, lesson, exam, options)
    return Recovery(
        student.model(), trained[0][1], min(error for _, error in trained), tuple(trained), train.count,
        inputs.provenance.notes,
    )  # fmt: skip


class _Lesson:
    """Samples with what the original gives for them."""

    def __init__(self, teacher: Runner, inputs: Inputs) -> None:
        self.inputs = inputs
        answers = [dict(teacher.run(batch)) for batch in track(inputs, "asking the original")]
        for name, value in answers[0].items():
            if len(value) != min(inputs.batch, inputs.count):
                raise ModelError(
                    f"output {name!r} has {len(value)} rows for a batch of {inputs.batch} samples, so it "
                    "cannot be told which are whose; take them one by one (--batch 1)"
                )
        self._answers = {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}
        total = OutputError()
        total.add("", self._answers, {name: np.zeros_like(value) for name, value in self._answers.items()})
        self.energies = total.variances("")

    def batches(self, seed: int) -> Iterator[tuple[Batch, Outputs]]:
        """Shuffled batches without end."""
        rng = np.random.default_rng(seed)
        while True:
            yield from self._in(rng.permutation(self.inputs.count))

    def _in(self, order: NDArray[np.int64]) -> Iterator[tuple[Batch, Outputs]]:
        for start in range(0, len(order), self.inputs.batch):
            rows = order[start : start + self.inputs.batch]
            yield (
                {name: array[rows] for name, array in self.inputs.arrays.items()},
                {name: array[rows] for name, array in self._answers.items()},
            )

    def error(self, student: Student) -> float:
        """Relative error of the student's outputs over all samples."""
        import torch  # noqa: PLC0415 - an extra

        measure = OutputError()
        with torch.no_grad():
            for batch, answer in self._in(np.arange(self.inputs.count)):
                measure.add(
                    "", answer, {name: value.numpy() for name, value in student.outputs(batch).items()}
                )
        return measure.error("")


def _sized(options: RecoverOptions, inputs: Inputs) -> RecoverOptions:
    """Options with steps and batch: few of large samples, or many of small ones."""
    values = sum(array[0].size for array in inputs.arrays.values())
    batch = options.batch or min(max(_BATCH_VALUES // values, 1), _LARGEST_BATCH)
    steps = options.steps or min(max(_STEPS * _BATCH_VALUES // (batch * values), _STEPS), _MOST_STEPS)
    return replace(options, steps=steps, batch=batch)


def _train(
    student: Student, lesson: _Lesson, exam: _Lesson, options: RecoverOptions
) -> list[tuple[int, float]]:
    """Train; gives the held-out error by step and leaves the best weights in the student."""
    import torch  # noqa: PLC0415 - an extra

    assert options.steps is not None, "Bug: options come from _sized"
    parameters = student.parameters()
    groups = [{"params": [p], "lr": options.rate * _scale(p)} for p in parameters]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate_of(options.steps))
    curve = [(0, exam.error(student))]
    best = [p.detach().clone() for p in parameters]
    every = math.ceil(options.steps / options.checks)
    batches = lesson.batches(options.seed)
    for step in track(range(1, options.steps + 1), "training the factors"):
        batch, answer = next(batches)
        optimizer.zero_grad()
        loss = _loss(student.outputs(batch), answer, lesson.energies)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % every == 0 or step == options.steps:
            error = exam.error(student)
            if error < min(known for _, known in curve):
                best = [p.detach().clone() for p in parameters]
            curve.append((step, error))
    with torch.no_grad():
        for parameter, value in zip(parameters, best, strict=True):
            parameter.copy_(value)
    return curve


def _scale(parameter: Tensor) -> float:
    """Root mean square, for the learning rate; small where a weight is nearly zero."""
    return max(float(parameter.detach().square().mean().sqrt()), 1e-8)


def _rate_of(steps: int) -> Callable[[int], float]:
    warm = max(1, steps // 20)
    return lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0))))


def _loss(found: dict[str, Tensor], answer: Outputs, energies: dict[str, float]) -> Tensor:
    """Mean over the outputs of the squared error, as a share of what each output varies per value."""
    import torch  # noqa: PLC0415 - an extra

    terms = [
        (found[name] - torch.from_numpy(np.array(value))).square().mean() / energies[name]
        for name, value in answer.items()
        if energies[name] > 0
    ]
    return torch.stack(terms).mean()


def _student(original: Model, decomposed: Model, outputs: tuple[str, ...]) -> Student:
    kind = type(decomposed).__name__
    if kind not in _STUDENTS:
        raise ModelError(f"models of type {kind} cannot be trained here; train the module itself")
    try:
        make: Callable[..., Student] = import_module(f".{_STUDENTS[kind]}", __name__).make_student
    except ImportError as error:
        raise MissingExtraError("recovery", "PyTorch", "torch") from error
    return make(original, decomposed, outputs)
