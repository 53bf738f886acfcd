"""Where calibration inputs come from: what a call names, read or made as inputs of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OptionError, option
from ..renamed import former_fields
from .accuracy import Accuracy
from .batches import unmixed
from .companions import accompanied, images_among
from .gather import CalibrationOptions
from .images import ImageOptions, load_images
from .inputs import Inputs, SampleShape, fits, from_arrays, load_data
from .measure import Metric
from .pixels import ImageSource, is_image
from .preprocessing import Preprocessing, Subject, find, options_of
from .preprocessing.transform_param import CaffeDescription
from .presets import PRESETS
from .runner import Runner
from .synthetic import ValueRange, dead_leaves, image_shape, synthetic_inputs

#: Values of one batch. Its activations must fit into memory, with their gradients.
_BATCH_VALUES = 2 * 3 * 320 * 320
_LARGEST_BATCH = 16
#: Synthetic images where there are no inputs.
SYNTHETIC = 66
#: Images that a preprocessing is looked for with.
_LOOKED_AT = 16


@former_fields(protect="targets")
@dataclass(frozen=True, eq=False)
class CalibrationSource:
    """Where calibration inputs come from, and how they are used.

    Attributes:
        images: a folder, list, pattern or paths of images, or images of Pillow.
        data: a `.npy`/`.npz` file, arrays, or an iterable of arrays or of dicts of arrays.
        image_options: how images become inputs, on top of what the model says; or what describes it:
            torchvision's weights or transforms, an image processor of transformers.
        values: range of synthetic images.
        targets: names of the outputs that must change least; empty for the model's own.
        metric: what is protected instead of the relative error of the outputs.
        accuracy: for a budget of accuracy: a folder of labelled images, one subfolder per class, or a
            function that is given one that predicts, and returns a fraction.
        statistics: file that caches calibration statistics for later runs.
        options: how the network is looked at.
    """

    images: ImageSource | Iterable[ImageSource] | None = None
    data: Any = None
    image_options: ImageOptions = field(default_factory=ImageOptions)
    values: ValueRange | None = None
    targets: tuple[str, ...] = ()
    metric: Metric | None = None
    accuracy: str | Path | Accuracy | None = None
    statistics: Path | None = None
    options: CalibrationOptions = field(default_factory=CalibrationOptions)

    def __post_init__(self) -> None:
        if self.images is not None and self.data is not None:
            raise OptionError("images or data: give one of them")
        if not (self.images is None or isinstance(self.images, (str, Path)) or is_image(self.images)):
            object.__setattr__(self, "images", _kept(self.images))  # it may be read twice
        if not isinstance(self.image_options, ImageOptions):
            object.__setattr__(self, "image_options", _described(self.image_options))

    @classmethod
    def of(
        cls, source: CalibrationSource | None, *, images: ImageSource | Iterable[ImageSource] | None,
        image_options: Any, data: Any, **others: Any,
    ) -> CalibrationSource:  # fmt: skip
        """What a call names: a source as one value, or its parts.

        Raises:
            OptionError: it names both, or something else in the place of a source.
        """
        if source is not None and not isinstance(source, cls):
            raise OptionError(
                f"the source of inputs is a CalibrationSource, got a {type(source).__name__}; "
                "give arrays as data=..., and images as images=..."
            )
        parts = {"images": images, "image_options": image_options, "data": data, **others}
        named = {name: value for name, value in parts.items() if value is not None}
        if source is not None and named:
            raise OptionError(f"a source and {' and '.join(named)}: give one of them")
        return source or cls(**named)

    @property
    def given(self) -> bool:
        """Whether the user named inputs."""
        return self.images is not None or self.data is not None

    @property
    def asked(self) -> bool:
        """Whether the user named anything that needs a calibration."""
        said = (self.metric, self.accuracy, self.statistics, self.values)
        more = (self.targets, self.options.synthetic)
        return self.given or any(more) or any(value is not None for value in said)


def _kept(images: Any) -> tuple[ImageSource, ...]:
    if not isinstance(images, Iterable):
        raise OptionError(f"images: paths or images of Pillow, got a {type(images).__name__}")
    return tuple(images)


def _described(value: Any) -> ImageOptions:
    options = options_of(value)
    if options is None:
        raise OptionError(
            f"image_options: a {type(value).__name__} tells no mean and standard deviation; give ImageOptions"
        )
    return options


def calibration_inputs(runner: Runner, source: CalibrationSource) -> Inputs:
    """Read or make the inputs that a source names.

    Raises:
        InputError: no inputs can be read or made, or nothing tells how images become inputs of the model.
    """
    limit = source.image_options.limit or None
    shown = _shown(runner)
    if source.images is not None:
        inputs = _read(shown, source)
    elif isinstance(source.data, (str, Path)):
        inputs = _fitting(
            runner, load_data(source.data, _sizes(runner), limit=limit, memory=source.options.memory)
        )
    elif source.data is not None:
        inputs = _fitting(runner, from_arrays(source.data, _sizes(runner), limit=limit))
    else:
        inputs = _synthetic(shown, source)
    if source.data is None:
        inputs = accompanied(inputs, runner.inputs, seed=source.image_options.seed)
    origin = inputs.provenance
    inputs = replace(inputs, provenance=replace(origin, notes=(*runner.notes, *origin.notes)))
    size = min(max(_BATCH_VALUES // inputs.values_per_sample, 1), _LARGEST_BATCH)
    return unmixed(runner, inputs.batched(size))


class _Shown:
    """A runner with those of its inputs alone that take images."""

    def __init__(self, runner: Runner, inputs: Mapping[str, SampleShape]) -> None:
        self._runner, self.inputs = runner, inputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def _shown(runner: Runner) -> Runner:
    """The runner for reading and making images: Caffe nets may have other inputs beside, as `im_info`."""
    return cast(Runner, _Shown(runner, images_among(runner.inputs))) if is_caffe(runner) else runner


def _sizes(runner: Runner) -> Mapping[str, SampleShape]:
    """Shapes of samples, None where the network may take any size."""
    if not runner.any_size:
        return runner.inputs
    return {
        name: tuple(size if axis == 0 < len(shape) - 1 else None for axis, size in enumerate(shape))
        for name, shape in runner.inputs.items()
    }


def _fitting(runner: Runner, inputs: Inputs) -> Inputs:
    """The same inputs, which the network takes.

    Raises:
        InputError: it does not take them in their size.
    """
    differ = {
        name: (array.shape[1:], shape)
        for name, array in inputs.arrays.items()
        if not fits(array.shape[1:], shape := runner.inputs[name])
    }
    if not differ:
        return inputs
    sizes = "; ".join(
        f"{name} {have}, where example inputs are {shape}" for name, (have, shape) in differ.items()
    )
    try:
        runner.run(next(iter(inputs.take(slice(1)))))
    except InputError as error:
        raise InputError(f"samples of {sizes}: {error}") from error
    note = f"samples of {sizes}: costs are counted for these"
    return replace(inputs, provenance=replace(inputs.provenance, notes=(*inputs.provenance.notes, note)))


# ---- images of the user's own


def _read(runner: Runner, source: CalibrationSource) -> Inputs:
    assert source.images is not None
    if len(runner.inputs) != 1:
        return load_images(
            source.images, runner.inputs, source.image_options, memory=source.options.memory
        )  # which says what to do
    found, warnings = image_preprocessing(runner, source, "images")
    inputs = load_images(source.images, runner.inputs, found.options, memory=source.options.memory)
    return _noted(inputs, runner, {next(iter(runner.inputs)): found}, warnings)


def image_preprocessing(
    runner: Runner, source: CalibrationSource, what: str
) -> tuple[Preprocessing, tuple[str, ...]]:
    """How image files become inputs, with all that they need, and warnings of what is assumed.

    Raises:
        InputError: nothing tells it, and the model follows no convention.
    """
    name = next(iter(runner.inputs))
    found = _found(runner, source)[name]
    if is_caffe(runner):
        options = found.options
        quiet = options.mean is None and options.scale is None
        note = "neither you nor the model name a mean or scale: pixels 0..255 go in as they are"
        return replace(found, notes=(*found.notes, *([note] if quiet else []))), ()
    if not found.certain:
        presets = "; ".join(f"{preset} ({text})" for preset, text in PRESETS.items())
        raise InputError(
            f"{what}: nothing tells how images become values of input {name!r}: not the model, no example "
            f"inputs, no batch normalisation. Say it: {preset_option()} with {presets}; or a mean and a "
            "scale; or give arrays as data"
        )
    if found.options.color is not None or runner.inputs[name][:1] == (1,):
        return found, ()
    color = option(f"ImageOptions(color={found.order!r})", f"--color {found.order}")
    other = "bgr" if found.order == "rgb" else "rgb"
    warning = (
        f"{name}: nothing tells the order of the channels; {found.order.upper()} is assumed. Say it: "
        f"{color}, or {other}"
    )
    return replace(found, options=replace(found.options, color=found.order)), (warning,)


# ---- images that are synthesized


def _synthetic(runner: Runner, source: CalibrationSource) -> Inputs:
    """Images; where a model takes something else, the examples that came with it."""
    try:
        for name, shape in runner.inputs.items():
            image_shape(name, shape)
        found = _found(runner, source)
        inputs = synthetic_inputs(
            runner.inputs,
            count=_count(source),
            seed=source.image_options.seed,
            values={
                name: source.values
                or ValueRange.of(shape[0] or 3, found[name].options, known=found[name].certain)
                for name, shape in runner.inputs.items()
            },
        )
    except InputError:
        if not runner.examples:
            raise
        inputs = from_arrays(runner.examples, runner.inputs)
        note = f"calibrated on the {inputs.count} example inputs alone; give data for a better fit"
        return replace(inputs, provenance=replace(inputs.provenance, notes=(note,)))
    warnings = [_warning(name, one) for name, one in found.items() if not one.certain]
    return _noted(inputs, runner, found, warnings)


def _count(source: CalibrationSource) -> int:
    """How many images are synthesized: as many as asked for; by default no more than the limit of inputs."""
    asked, limit = source.options.synthetic, source.image_options.limit
    return min(SYNTHETIC, limit or SYNTHETIC) if asked is None else asked


def _warning(name: str, found: Preprocessing) -> str:
    return (
        f"{name}: how images become values of this input is not known: {found}; what is fitted and "
        f"measured holds for such values alone. Say it: {preset_option()} with {', '.join(PRESETS)}, or a "
        "mean and a scale; or give data"
    )


def preset_option() -> str:
    """The option that names a preprocessing."""
    return option("image_options=ImageOptions(preset=...)", "--preset")


# ---- what was found


def _noted(
    inputs: Inputs, runner: Runner, found: Mapping[str, Preprocessing], warnings: Iterable[str]
) -> Inputs:
    """With what was found in notes, warnings and the record."""
    origin = inputs.provenance
    notes = [note for one in found.values() for note in one.notes]
    if not is_caffe(runner):
        notes += [f"{name}: {one}" for name, one in found.items() if one.certain]
    record = {name: one.record() for name, one in found.items()}
    origin = replace(
        origin, notes=(*notes, *origin.notes), warnings=(*origin.warnings, *warnings), preprocessing=record
    )
    return replace(inputs, provenance=origin)


def _found(runner: Runner, source: CalibrationSource) -> dict[str, Preprocessing]:
    """The preprocessing of every input."""
    told = source.image_options
    if source.values is not None and not told.maps_values and not is_caffe(runner):
        unit = (source.values.high - source.values.low) / 255
        told = replace(told, mean=(-source.values.low / unit,), scale=unit)
    return {
        name: find(Subject(name, shape, runner, len(runner.inputs) == 1, _images(runner, source, name)), told)
        for name, shape in runner.inputs.items()
    }


def _images(runner: Runner, source: CalibrationSource, name: str) -> Any:
    """Makes images with pixels 0..255 that are like the inputs: the user's, or synthetic ones."""

    @cache
    def make() -> NDArray[np.float32] | None:
        shape = runner.inputs[name]
        try:
            channels, height, width = image_shape(name, shape)
        except InputError:
            return None
        if source.images is None:
            leaves = dead_leaves(_LOOKED_AT, channels, (height, width), seed=source.image_options.seed)
            return leaves * np.float32(255)
        plain = replace(
            source.image_options, mean=None, scale=None, preset=None, crops=1, limit=_LOOKED_AT,
            color="gray" if channels == 1 else "rgb",
        )  # fmt: skip
        return load_images(source.images, {name: shape}, plain).arrays[name]

    return make


def is_caffe(runner: Runner) -> bool:
    """Whether the model follows Caffe's convention."""
    return isinstance(runner.described, CaffeDescription)
