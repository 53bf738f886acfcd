"""Recovery without labels: the original network teaches the decomposed one.

The factors are trained so that the outputs become those of the original on the user's inputs; everything
else stays as it is. For the int8 form all layers in int8 are trained, with its rounding. What the original
gives is computed once. A part of the inputs is held out, and the weights that are best on it are kept, be it
the first ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ..backends import backend_of, with_data
from ..calibration.pixels import ImageSource
from ..calibration.runners import reject_varying, runner_for
from ..calibration.source import CalibrationSource, calibration_inputs
from ..calibration.split import split
from ..calibration.synthetic import beside
from ..decomposition.tryout import tryout
from ..errors import InputError, MissingExtraError, ModelError, OptionError, option, without
from ..formats.base import Model
from ..renamed import former
from ..text import error_text
from .options import RecoverOptions

if TYPE_CHECKING:
    from ..calibration.runner import Runner
    from ..distributed import World
    from .student import Student

__all__ = ["RecoverOptions", "Recovery", "recover"]


@dataclass(frozen=True, eq=False)
class Recovery:
    """What came out.

    Attributes:
        model: the trained model; with `qat` its int8 form, an `OnnxModel`.
        before: relative error of its outputs before, on inputs that were not trained on.
        after: the same after.
        curve: (step, error) of every measurement.
        samples: number of samples that were trained on.
        notes: about the inputs.
        losses: (step, mean loss of the steps since the point before) of the training.
        rank: number of this process; only the first of several should write and speak.
    """

    model: Any
    before: float
    after: float
    curve: tuple[tuple[int, float], ...]
    samples: int
    notes: tuple[str, ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    rank: int = 0

    def __str__(self) -> str:
        lines = [
            f"relative error of the outputs, on held-out inputs: {error_text(self.before)} before, "
            f"{error_text(self.after)} after, trained on {self.samples} samples without labels",
            *self.notes,
        ]
        return "\n".join(lines)


@without("no_data", "skip")
@former(also="average_with")
def recover(
    original: Any,
    decomposed: Any,
    source: CalibrationSource | None = None,
    options: RecoverOptions | None = None,
    *,
    images: ImageSource | Iterable[ImageSource] | None = None,
    image_options: Any = None,
    data: Any = None,
    example_inputs: Any = None,
    average_with: Iterable[Any] = (),
) -> Recovery:
    """Train the factors of a decomposed model to give what the original gives.

    Under `torchrun` the processes share every batch, and all of them get the same model.

    Args:
        original: the model before: what `load` gives, or a `torch.nn.Module`.
        decomposed: what `decompose` made of it: its result, the model or the module in it, or what was
            written. It stays as it is.
        source: the inputs, as one value; synthetic images where it names none.
        options: how.
        images: the inputs, as in `decompose`, instead of a source.
        image_options: as in `decompose`.
        data: the inputs, as in `decompose`, instead of a source.
        example_inputs: of modules, as in `decompose`.
        average_with: what other recoveries made of the same decomposed model; the training begins with the
            mean of the weights, whose error is often smaller than that of each.

    Raises:
        ModelError: the models do not belong together, or cannot be trained.
        InputError: there are too few inputs.
        OptionError: there is no such device or hint, the size of a protected value depends on the values of
            the inputs, the processes cannot share a batch evenly, or `average_with`
            is given with `qat`.
        MissingExtraError: PyTorch or pytorch-optimizer is not installed.

    Examples:
        >>> model = twofold.load("net.prototxt", "net.caffemodel")
        >>> smaller = twofold.decompose(model, macs=0.5, no_data=True)
        >>> options = twofold.RecoverOptions(steps=20)
        >>> recovery = twofold.recover(model, smaller, options=options, images="photos/")
        >>> recovery.after <= recovery.before
        True
    """
    source = CalibrationSource.of(source, images=images, image_options=image_options, data=data)
    (original, *students), data = with_data(
        (original, decomposed, *average_with), example_inputs, source.data
    )
    backend, *others = dict.fromkeys(backend_of(model) for model in (original, *students))
    if others:
        raise ModelError(f"models of one format are needed, got {' and '.join(map(str, (backend, *others)))}")
    backend.part("student", "be trained")  # before the work
    options = options or RecoverOptions()
    if options.qat and len(students) > 1:
        raise OptionError(
            f"{option('average_with', '--average-with')} does not go with {option('qat=True', '--qat')}"
        )
    try:
        from ..distributed import joined  # noqa: PLC0415 - an extra

        import_module(".train", __name__)
    except ImportError as error:
        package = "pytorch-optimizer" if error.name == "pytorch_optimizer" else "PyTorch"
        raise MissingExtraError("recovery", package, "torch") from error
    with joined(options.device) as world:
        # All that uses the group of processes goes with the call.
        return _recover(original, students, replace(source, data=data), options, world)


def _recover(
    original: Model, students: list[Model], source: CalibrationSource, options: RecoverOptions, world: World
) -> Recovery:
    from .train import TeacherData, train  # noqa: PLC0415 - an extra

    runner = runner_for(original, () if options.qat else source.targets)
    hints = tuple(name for name in dict.fromkeys(options.hints) if name not in runner.outputs)
    if hints:
        runner = _hinting(original, runner.outputs, hints)
    reject_varying(runner)
    if not options.qat:  # before inputs are read
        student = _mean(*(_float_student(original, one, runner, world) for one in students))
    inputs = calibration_inputs(runner, source)
    if inputs.count < 2:
        raise InputError(f"recovery needs at least 2 inputs, got {inputs.count}")
    sized = options.sized(inputs, world.shard.size)
    assert sized.batch is not None, "Bug: options are not sized"
    parts = split(inputs.batched(sized.batch))
    fitted, holdout = parts.fitted, parts.holdout
    if source.options.synthetic and inputs.provenance.source_type != "synthetic":
        more = beside(fitted, source.options.synthetic, seed=source.image_options.seed)
        note = f"{more.count} synthetic images teach beside yours; errors are measured on yours alone"
        fitted = fitted.and_also(more, note)
    if options.qat:
        from .int8 import Int8Student, make_teacher  # noqa: PLC0415 - an extra

        runner = make_teacher(original, source.targets)
        fitted, holdout = (one.only(runner.inputs) for one in (fitted, holdout))
        student = Int8Student(students[0], runner, fitted, world.device)
    validation = TeacherData(runner, holdout, world, hints)
    teacher_data = TeacherData(runner, fitted, world, hints) if sized.steps else validation
    course = train(student, teacher_data, validation, sized, world)
    curve = course.errors
    model, notes = student.finish(holdout)
    if not options.qat:  # the int8 form has run beside the original in ONNX Runtime
        first = next(iter(holdout.take(slice(0, 1))))
        notes = (*notes, *tryout(original, model, runner_for(original), first).warnings(changed=True))
    return Recovery(
        model, curve[0][1], min(error for _, error in curve), curve, fitted.count if sized.steps else 0,
        (*fitted.provenance.lines, *notes), course.losses, world.shard.rank,
    )  # fmt: skip


def _hinting(original: Model, outputs: tuple[str, ...], hints: tuple[str, ...]) -> Runner:
    """A teacher that gives hints beside the outputs.

    Raises:
        OptionError: the original has no value of a hint's name.
    """
    if not backend_of(original).hints:
        raise OptionError(
            "hints are for Caffe and ONNX models; let forward return what a module is to learn, too"
        )
    try:
        return runner_for(original, (*outputs, *hints))
    except OptionError as error:
        raise OptionError(f"{option('hints', '--hint')}: {error}") from error


def _mean(first: Student, *others: Student) -> Student:
    """The first student, with the mean of the weights of all.

    Raises:
        ModelError: they do not train the same weights.

    Source: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models", 2022.
    """
    weights = [[p.detach() for p in one.parameters()] for one in (first, *others)]
    shapes = [[tuple(weight.shape) for weight in one] for one in weights]
    for number, one in enumerate(shapes[1:], 1):
        if one != shapes[0]:
            mine, other = next(pair for pair in zip_longest(shapes[0], one) if pair[0] != pair[1])
            raise ModelError(
                f"{option('average_with', '--average-with')} takes what other recoveries made of the same "
                f"decomposed model, but the shapes of the factors differ: {mine} in the model, {other} in "
                f"number {number} beside it"
            )
    for mean, *rest in zip(*weights, strict=True):
        mean.add_(sum(rest)).div_(len(weights))
    return first


def _float_student(original: Model, decomposed: Model, teacher: Runner, world: World) -> Student:
    make = backend_of(original).part("student", "be trained").get("recovery")
    student: Student = make(original, decomposed, teacher.outputs, world.device)
    if not student.parameters():
        raise ModelError("the second model has no layer that the first lacks: there is nothing to train")
    return student
