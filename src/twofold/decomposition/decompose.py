"""The whole way, as a call asks for it: options, calibration, and what `pipeline` makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from ..backends import with_data
from ..calibration.pixels import ImageSource
from ..calibration.source import CalibrationSource
from ..conv import ConvLayer, Skipped
from ..device import computing_on
from ..errors import OptionError, PlanError, TwofoldError
from ..files.cache import Cache
from ..fingerprint import digest_of
from ..formats.base import Model
from ..latency.choose import RuntimeOptions, stopwatch
from ..latency.stopwatch import FirstTimer, Stopwatch
from ..lowrank import SCHEMES, FitOptions
from ..planning import PlanOptions, requests
from ..planning.feasible import check_feasible
from ..planning.options import DATA_SCHEMES, MORE_WEIGHT_SCHEMES, WEIGHT_SCHEMES
from ..progress import note
from ..ranks import here, joined
from ..renamed import former
from .cache import standard_cache
from .calibrate import Calibration, WeightsOnly, prepare
from .keywords import Fields, Keywords, check, fit_of, plan_of, runtime_of, source_of
from .pipeline import run
from .result import Result

if TYPE_CHECKING:
    from torch.nn import Module
    from typing_extensions import Unpack

    from ..formats.torch.model import TorchModel

M = TypeVar("M", bound=Model)


@overload
def decompose(model: Module, **options: Unpack[Keywords]) -> Result[TorchModel]: ...
@overload
def decompose(model: M, **options: Unpack[Keywords]) -> Result[M]: ...
@former(protect="targets")
def decompose(
    model: Any,
    *,
    macs: float | str | None = None,
    error: float | str | None = None,
    speedup: float | None = None,
    runtime: str | RuntimeOptions | None = None,
    schemes: str | Sequence[str] | None = None,
    multiple: int | str | None = None,
    images: ImageSource | Iterable[ImageSource] | None = None,
    data: Any = None,
    no_data: bool = False,
    example_inputs: Any = None,
    plan: PlanOptions | None = None,
    source: CalibrationSource | None = None,
    fit: FitOptions | None = None,
    cache: bool = True,
    **fields: Unpack[Fields],
) -> Result[Any]:
    """Replace large convolutions by stacks of smaller ones.

    Factors are fitted to the activations on calibration inputs, and the budget is spread over the layers
    so that the network's outputs change least. Where neither `images` nor `data` are given, images are
    synthesized; where that cannot be done either, the weights alone decide, and the plan's notes say so.

    Without a budget, the MACs that AMCT's rank rule would spend are spent, and never more.

    Of several processes, as `torchrun` starts them or as a process group of PyTorch's has them, all must make
    the call: the work is split, and all get the same result.

    Args:
        model: what `load` gives, or a `torch.nn.Module`, which stays as it is: the result's `model.module`
            is a new one.
        macs: MACs after / before, over all convolutions of the network: 0.4 or "40%"; or an amount of them:
            2e7, "20M". At most one budget may be given.
        error: the cheapest network is sought whose outputs have at most this relative error.
        speedup: how many times faster the network is to run in `runtime`, as measured there.
        runtime: what will run the network, such as "onnxruntime", or `RuntimeOptions`. Layers that it does
            not run faster stay.
        schemes: names of the schemes that compete; by default "spatial", "channel" and
            "depthwise"; where weights decide, "spatial" alone if that takes layers and reaches the budget.
        multiple: ranks are multiples of this, and at least this; 16 by default. The name of a device, as
            "ascend-fp16", also counts MACs as the device does: in whole blocks of channels.
        images: a folder, pattern, list file or paths of images to calibrate on, or images of Pillow.
        data: inputs as they go into the network: a `.npy`/`.npz` file, arrays, or an iterable of them.
        no_data: use the weights alone.
        example_inputs: of a module: what its forward gets, a tensor, a tuple of arguments or a dict. They
            tell the sizes of the layers' inputs, and are calibrated on where no images can be synthesized;
            without them the first of `data` is taken, and without both MACs are counted per output position.
        plan: what else decides the ranks, as one value.
        source: all that can be said about inputs, as one value.
        fit: how factors are fitted, as one value.
        cache: whether what earlier runs on the same model and inputs have measured and fitted is used, and
            what this one does is kept for the next; see `twofold cache`. The result is the same.
        fields: fields of these options by their own names, instead of `plan`, `source`, `fit` or
            `RuntimeOptions`:

            - other budgets: `params` (weights after / before, or an amount), `energy` (fraction of every
              layer's energy to keep), `latency` (time after / before), `accuracy_drop` (the cheapest
              network is sought whose accuracy, a fraction, drops by at most this);
            - of the plan: `rule` (chooses every rank by itself, as "amct"; from the weights alone unless
              inputs are given), `only` and `skip` (names or patterns of layers), `ranks` (layer name or
              pattern -> its rank, ranks for a scheme with several, or "full");
            - of the runtime: `threads`, `latency_table` (times measured on a device that is not here);
            - of the source: `image_options` (how images become inputs, on top of what the model says:
              `ImageOptions(preset="imagenet")`, torchvision's weights or transforms, or an image processor of
              transformers; where nothing tells it, a warning names what is assumed, and `images` are
              rejected for PyTorch and ONNX), `targets` (names of the outputs that must change least),
              `metric` (what is protected instead: a function of the outputs of all samples, by name, to a
              number), `accuracy` (for `accuracy_drop`: a folder of labelled images, one subfolder per class,
              or a function that is given `predict`), `statistics` (a file that caches calibration
              statistics), `calibration` (`CalibrationOptions`);
            - of the fit: `refine` (alternations that improve the factors at the chosen ranks; 0 is quicker);
            - `device` ("cuda" or "cuda:1"; where the network and large matrices are computed instead of on
              the CPU; it needs PyTorch).

    Returns:
        The smaller model and the plan. Nothing is written before `Result.save`.

    Raises:
        PlanError: a budget out of reach, or names that match no layer.
        OptionError: options out of range or in contradiction.
        ModelError: weights are missing or not finite, or do not fit the definition; the network cannot run.
        InputError: inputs that cannot be used.
        MissingExtraError: inputs are given, and what runs the network is not installed.
        RankError: another of several processes has failed, or has other files or options.

    Examples:
        >>> model = twofold.load("net.prototxt", "net.caffemodel")
        >>> result = twofold.decompose(model, macs=0.5, images="photos/")
        >>> result.plan.totals.macs_ratio <= 0.5
        True
        >>> [path.name for path in result.save("out/")]
        ['net.prototxt', 'net.caffemodel', 'plan.json']
    """
    given: Keywords = {
        "macs": macs, "error": error, "speedup": speedup, "runtime": runtime, "schemes": schemes,
        "multiple": multiple, "images": images, "data": data, "no_data": no_data,
        "example_inputs": example_inputs, "plan": plan, "source": source, "fit": fit, "cache": cache,
        **fields,
    }  # fmt: skip
    with joined() as ranks, computing_on(fields.get("device")):
        ready = ranks.agreed("what is asked for", lambda: prepared(model, **given))
        if ranks.several:
            ranks.same("model, inputs or options", ready.digest())
        return ready.run()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A decomposition before its work.

    Attributes:
        model: the model.
        options: of the plan.
        calibration: inputs and what runs them, or the weights alone.
        fit: of the factors.
        timer: tells times, for plans that are made by them.
    """

    model: Any
    options: PlanOptions
    calibration: Calibration | WeightsOnly
    fit: FitOptions | None
    timer: Stopwatch | None

    def digest(self) -> str:
        """A hash of the model, the inputs and the options, as far as they have one."""
        inputs = self.calibration.inputs.digest() if isinstance(self.calibration, Calibration) else ""
        model = ""
        with suppress(TwofoldError, ValueError, TypeError, RecursionError, AttributeError):
            model = self.model.fingerprint()
        return digest_of(model, inputs, repr(self.options))

    def run(self) -> Result[Any]:
        """Do it."""
        return run(self.model, self.options, self.calibration, self.fit, self.timer)


def prepared(model: Any, *, feasible: bool = True, **given: Unpack[Keywords]) -> Prepared:
    """What `decompose` is going to do: options are read, and inputs.

    Args:
        model: see `decompose`.
        feasible: whether a budget that shapes rule out is rejected.
        given: the options of `decompose`.

    Raises: as `decompose`.
    """
    check({name: value for name, value in given.items() if name not in Keywords.__annotations__})
    fields = cast("Fields", given)
    source = source_of(given.get("source"), fields, images=given.get("images"), data=given.get("data"))
    fit, timing = fit_of(given.get("fit"), fields), runtime_of(given.get("runtime"), fields)
    plan, schemes, no_data = given.get("plan"), given.get("schemes"), given.get("no_data", False)
    options = plan_of(
        plan, fields, macs=given.get("macs"), error=given.get("error"), speedup=given.get("speedup"),
        schemes=schemes, multiple=given.get("multiple"),
    )  # fmt: skip
    (model,), data = with_data((model,), given.get("example_inputs"), source.data)
    source = replace(source, data=data)
    timer = stopwatch(options.budget, timing)
    if timer is not None and here().several:
        timer = FirstTimer(timer, here())
    layers = model.convolutions()
    open_choice = plan is None and schemes is None
    if open_choice:
        options = replace(options, schemes=first_schemes(layers, options, timer, no_data=no_data))
    if feasible:
        check_feasible(layers, options)  # before the long work
    kept = standard_cache() if given.get("cache", True) else None
    used = calibrate(model, source, no_data=no_data, rule=options.rule, cache=kept)
    for text in used.notes:
        note(text)
    if open_choice:
        options = replace(options, schemes=default_schemes(used, timer, layers, options))
    return Prepared(model, options, used, fit, timer)


def calibrate(
    model: Model, source: CalibrationSource, *, no_data: bool = False, rule: str | None = None,
    cache: Cache | None = None,
) -> Calibration | WeightsOnly:  # fmt: skip
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
    return prepare(model, source, cache)


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
        return MORE_WEIGHT_SCHEMES
    return WEIGHT_SCHEMES if requests(layers, few) else MORE_WEIGHT_SCHEMES
