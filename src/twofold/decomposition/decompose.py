"""The whole way, as a call asks for it: options, calibration, and what `pipeline` makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, overload

from ..backends import with_data
from ..calibration.accuracy import Accuracy
from ..calibration.gather import CalibrationOptions
from ..calibration.measure import Metric
from ..calibration.pixels import ImageSource
from ..calibration.source import CalibrationSource
from ..conv import ConvLayer, Skipped
from ..errors import OptionError, PlanError, option
from ..formats.base import Model
from ..latency.choose import stopwatch, time_budget
from ..latency.stopwatch import Stopwatch
from ..lowrank import REFINE, SCHEMES, FitOptions
from ..planning import Budget, FixedRanks, PlanOptions, requests
from ..planning.devices import parse_multiple
from ..planning.feasible import check_feasible
from ..planning.options import DATA_SCHEMES, WEIGHT_SCHEMES
from ..progress import note
from ..renamed import former
from .calibrate import Calibration, WeightsOnly, prepare
from .pipeline import run
from .result import Result

if TYPE_CHECKING:
    from torch.nn import Module
    from typing_extensions import Unpack

    from ..formats.torch.model import TorchModel

M = TypeVar("M", bound=Model)


class Keywords(TypedDict, total=False):
    """The options of `decompose`."""

    macs: float | str | None
    params: float | str | None
    error: float | str | None
    accuracy_drop: float | str | None
    energy: float | str | None
    speedup: float | None
    latency: float | None
    runtime: str | None
    threads: int | None
    latency_table: str | Path | None
    rule: str | None
    multiple: int | str
    schemes: str | Sequence[str] | None
    only: str | Sequence[str]
    skip: str | Sequence[str]
    ranks: Mapping[str, int | tuple[int, ...] | Literal["full"]] | Iterable[FixedRanks] | None
    source: CalibrationSource | None
    images: ImageSource | Iterable[ImageSource] | None
    image_options: Any
    data: Any
    no_data: bool
    targets: str | Sequence[str]
    metric: Metric | None
    accuracy: str | Path | Accuracy | None
    statistics: str | Path | None
    calibration: CalibrationOptions | None
    refine: int
    example_inputs: Any


@overload
def decompose(model: Module, **options: Unpack[Keywords]) -> Result[TorchModel]: ...
@overload
def decompose(model: M, **options: Unpack[Keywords]) -> Result[M]: ...
@former(protect="targets")
def decompose(
    model: Any,
    *,
    macs: float | str | None = None,
    params: float | str | None = None,
    error: float | str | None = None,
    accuracy_drop: float | str | None = None,
    energy: float | str | None = None,
    speedup: float | None = None,
    latency: float | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    latency_table: str | Path | None = None,
    rule: str | None = None,
    multiple: int | str = 16,
    schemes: str | Sequence[str] | None = None,
    only: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    ranks: Mapping[str, int | tuple[int, ...] | Literal["full"]] | Iterable[FixedRanks] | None = None,
    source: CalibrationSource | None = None,
    images: ImageSource | Iterable[ImageSource] | None = None,
    image_options: Any = None,
    data: Any = None,
    no_data: bool = False,
    targets: str | Sequence[str] = (),
    metric: Metric | None = None,
    accuracy: str | Path | Accuracy | None = None,
    statistics: str | Path | None = None,
    calibration: CalibrationOptions | None = None,
    refine: int = REFINE,
    example_inputs: Any = None,
) -> Result[Any]:
    """Replace large convolutions by stacks of smaller ones.

    Factors are fitted to the activations on calibration inputs, and the budget is spread over the layers
    so that the network's outputs change least. Where neither `images` nor `data` are given, images are made
    up; where that cannot be done either, the weights alone decide, and the plan's notes say so.

    Without a budget, the MACs that AMCT's rank rule would spend are spent, and never more.

    Args:
        model: what `load` gives, or a `torch.nn.Module`, which stays as it is: the result's `model.module`
            is a new one.
        macs: MACs after / before, over all convolutions of the network: 0.4 or "40%"; or an amount of them:
            2e7, "20M". At most one budget may be given.
        params: weights after / before, over all convolutions, or an amount.
        error: the cheapest network is sought whose outputs have at most this relative error.
        accuracy_drop: the cheapest network is sought whose accuracy, a share, drops by at most this.
        energy: share of every layer's energy to keep.
        speedup: how many times faster the network is to run in `runtime`, as measured there.
        latency: the same the other way round: time after / before.
        runtime: what will run the network, such as "onnxruntime". Layers that it does not run faster stay.
        threads: that it may use; None for all cores.
        latency_table: times measured on a device that is not here, instead of a runtime.
        rule: a rule that chooses every rank by itself, as "amct", the reference's own; from the weights alone
            unless inputs are given.
        multiple: ranks are multiples of this, and at least this. The name of a device, as "ascend-fp16", also
            counts MACs as the device does: in whole blocks of channels.
        schemes: names of the schemes that compete; by default "spatial" and "channel", or "spatial"
            alone where the weights decide and that takes layers and reaches the budget.
        only: names or patterns of the layers that may be decomposed; empty means all.
        skip: names or patterns of layers to leave alone.
        ranks: layer name or pattern -> its rank (ranks for a scheme with several), or "full".
        source: all that can be said about inputs, as one value, instead of the options from `images` on.
        images: a folder, pattern, list file or paths of images to calibrate on, or images of Pillow.
        image_options: how images become inputs, on top of what the model says: `ImageOptions`, such as
            `ImageOptions(preset="imagenet")`; or torchvision's weights or transforms, or an image processor
            of transformers. Where neither says it, what example inputs and the first batch normalisation
            show counts; where nothing does, a warning names what is assumed, and `images` are rejected
            (PyTorch, ONNX).
        data: inputs as they go into the network: a `.npy`/`.npz` file, arrays, or an iterable of them.
        no_data: use the weights alone.
        targets: names of the outputs that must change least; empty for all of the network's.
        metric: what is protected instead: a function of the outputs of all samples, by name, to a number.
        accuracy: for `accuracy_drop`: a folder of labelled images, one subfolder per class, or a function
            that measures: it is given `predict`, which takes inputs by name and gives outputs by name.
        statistics: a file that caches calibration statistics for later runs.
        calibration: how the network is looked at.
        refine: alternations that improve the factors at the chosen ranks; 0 for the closed form alone, which
            is quicker.
        example_inputs: of a module: what its forward gets, a tensor, a tuple of arguments or a dict. They
            tell the sizes of the layers' inputs, and are calibrated on where no images can be synthesized;
            without them the first of `data` is taken, and without both MACs are counted per output position.

    Returns:
        The smaller model and the plan. Nothing is written before `Result.save`.

    Raises:
        PlanError: a budget out of reach, or names that match no layer.
        OptionError: options out of range or in contradiction.
        ModelError: weights are missing or not finite, or do not fit the definition; the network cannot run.
        InputError: inputs that cannot be used.
        MissingExtraError: inputs are given, and what runs the network is not installed.

    Examples:
        >>> model = twofold.load("net.prototxt", "net.caffemodel")
        >>> result = twofold.decompose(model, macs=0.5, images="photos/")
        >>> result.plan.totals.macs_ratio <= 0.5
        True
        >>> [path.name for path in result.save("out/")]
        ['net.prototxt', 'net.caffemodel', 'plan.json']
    """
    source = CalibrationSource.of(
        source,
        images=images,
        image_options=image_options,
        data=data,
        targets=_words(targets) or None,
        metric=metric,
        accuracy=accuracy,
        statistics=None if statistics is None else Path(statistics),
        options=calibration,
    )
    (model,), data = with_data((model,), example_inputs, source.data)
    source = replace(source, data=data)
    budget = _budget(
        macs=macs, params=params, error=error, accuracy_drop=accuracy_drop, energy=energy,
        speedup=speedup, latency=latency,
    )  # fmt: skip
    timer = stopwatch(budget, runtime_name=runtime, threads=threads, table=latency_table)
    number, device = parse_multiple(multiple)
    options = PlanOptions(
        budget=budget,
        rule=rule,
        multiple=number,
        device=device,
        schemes=DATA_SCHEMES if schemes is None else _words(schemes),
        only=_words(only),
        skip=_words(skip),
        ranks=_fixed(ranks or {}),
    )
    layers = model.convolutions()
    if schemes is None:
        options = replace(options, schemes=first_schemes(layers, options, timer, no_data=no_data))
    check_feasible(layers, options)  # before the long work
    used = calibrate(model, source, no_data=no_data, rule=rule)
    for text in used.notes:
        note(text)
    if schemes is None:
        options = replace(options, schemes=default_schemes(used, timer, layers, options))
    return run(model, options, used, FitOptions(refine=refine), timer)


def calibrate(
    model: Model, source: CalibrationSource, *, no_data: bool = False, rule: str | None = None
) -> Calibration | WeightsOnly:
    """The calibration that `decompose` uses.

    Raises:
        OptionError: inputs are given, and none are wanted.
        InputError: inputs that cannot be used.
        ModelError: the network cannot be run.
        MissingExtraError: what runs it is not installed.
    """
    if no_data and source.asked:
        raise OptionError(
            "no_data: contradicts the inputs, outputs, metric or synthetic images asked for; leave one out"
        )
    if no_data or (rule in ("amct", "evbmf") and not source.asked):
        return WeightsOnly()
    return prepare(model, source)


def first_schemes(
    layers: Sequence[ConvLayer | Skipped], options: PlanOptions, timer: Stopwatch | None, *, no_data: bool
) -> tuple[str, ...]:
    """All that `default_schemes` may come to, before it is known whether a calibration is possible."""
    if no_data:
        return default_schemes(WeightsOnly(), timer, layers, options)
    return tuple(SCHEMES) if timer is not None else DATA_SCHEMES


def default_schemes(
    calibration: Calibration | WeightsOnly, timer: Stopwatch | None,
    layers: Sequence[ConvLayer | Skipped], options: PlanOptions,
) -> tuple[str, ...]:  # fmt: skip
    """The schemes that compete where the user names none.

    All of them where time tells which is best. Where the weights alone decide, "spatial", whose errors are
    the most like those of outputs; "channel" beside it only where that takes no layer of the network, or does
    not reach the budget.
    """
    if timer is not None:
        return tuple(SCHEMES)
    if isinstance(calibration, Calibration):
        return DATA_SCHEMES
    few = replace(options, schemes=WEIGHT_SCHEMES)
    if options.rule is not None:
        return WEIGHT_SCHEMES
    try:
        check_feasible(layers, few)
    except PlanError:
        return DATA_SCHEMES
    return WEIGHT_SCHEMES if requests(layers, few) else DATA_SCHEMES


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _fixed(
    ranks: Mapping[str, int | tuple[int, ...] | Literal["full"]] | Iterable[FixedRanks],
) -> tuple[FixedRanks, ...]:
    if not isinstance(ranks, Mapping):
        return tuple(ranks)
    fixed = []
    for pattern, given in ranks.items():
        if given == "full":
            fixed.append(FixedRanks(pattern, None))
            continue
        sizes = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise OptionError(f"ranks: {pattern!r} has {given!r}; give a number, a tuple of them, or 'full'")
        fixed.append(FixedRanks(pattern, sizes))
    return tuple(fixed)


def _budget(*, speedup: float | None, latency: float | None, **given: float | str | None) -> Budget | None:
    """The budget that is given, of time or of another kind.

    Raises:
        OptionError: there are several, or it is none.
    """
    of_time = time_budget(speedup, latency)
    time = {"latency" if speedup is None else "speedup": of_time}
    named = [name for name, value in {**given, **time}.items() if value is not None]
    if len(named) > 1:
        raise OptionError(f"one budget can be kept, found {' and '.join(map(option, named))}; choose one")
    if of_time is not None:
        return Budget("latency", of_time)
    return next((Budget.of(metric, value) for metric, value in given.items() if value is not None), None)
