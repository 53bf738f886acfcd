"""Post-training quantization to int8 by ONNX Runtime, and what it costs, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..backends import with_data
from ..backends.exported import as_onnx
from ..calibration.inputs import Batch, Inputs
from ..calibration.measure import OutputErrorMetric, quality_warning
from ..calibration.pixels import ImageSource
from ..calibration.runner import Outputs
from ..calibration.runners import runner_for
from ..calibration.source import CalibrationSource, calibration_inputs
from ..calibration.split import split
from ..conv import ConvLayer
from ..device import computing_on
from ..errors import without
from ..files.scratch import scratch_folder
from ..formats.base import commit, output_path, reject_changed, reserved, sizes_of
from ..lowrank.assemble import checked_weight
from ..progress import track
from ..system import real
from ..text import aligned, count_text, error_text
from .qdq import LAYERS, fitting, prepare, session, with_outputs, write_int8

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class Quantized:
    """What was written, and what it costs.

    Attributes:
        path: the file.
        outputs: relative error of every output of the int8 net.
        layers: relative error of what each layer gives, all layers before it in int8 too, in their order;
            None for a layer that stays in float32.
        samples: how many inputs gave ranges, and how many errors were measured on.
        bytes: size of the model in float32, and in int8.
        notes: what must not be overlooked, and about the inputs.
    """

    path: Path
    outputs: Mapping[str, float]
    layers: Mapping[str, float | None]
    samples: tuple[int, int]
    bytes: tuple[int, int]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [
            ("layer", "relative error"),
            *((name, "not in int8" if one is None else error_text(one)) for name, one in self.layers.items()),
        ]
        ends = [
            ("output", "relative error"),
            *((name, error_text(one)) for name, one in self.outputs.items()),
        ]
        before, after = self.bytes
        lines = [
            *aligned(rows, {1}), "", *aligned(ends, {1}), "",
            f"of int8 to float32, over {self.samples[1]} inputs; ranges come from {self.samples[0]}",
            f"bytes: {count_text(before)} -> {count_text(after)} ({after / before:.3f})", *self.notes,
        ]  # fmt: skip
        return "\n".join(lines)


@without("no_data", "skip")
def quantize(
    model: Any,
    path: str | Path,
    source: CalibrationSource | None = None,
    *,
    images: ImageSource | Iterable[ImageSource] | None = None,
    image_options: Any = None,
    data: Any = None,
    example_inputs: Any = None,
    device: str | None = None,
    force: bool = False,
    extra: Callable[[Quantized], Mapping[Path, bytes]] | None = None,
) -> Quantized:
    """Write a model in int8, as ONNX.

    Weights are rounded so that what each layer gives on the inputs changes least, not one by one.

    Args:
        model: an ONNX model, or what is exported first: a Caffe model, or a `torch.nn.Module`; or what
            `decompose` or `recover` gives.
        path: where it goes.
        source: inputs that show the ranges of activations, as one value; synthetic images where it names
            none.
        images: the inputs, as in `decompose`, instead of a source.
        image_options: as in `decompose`.
        data: the inputs, as in `decompose`, instead of a source.
        example_inputs: of a module, as in `decompose`.
        device: as in `decompose`; errors are measured on the CPU.
        force: exchange a file that exists.
        extra: more files to write with it, such as a report, from what was found.

    Raises:
        OptionError: it is no model, or there is no such device.
        ModelError: it cannot be run, exported or quantized.
        InputError: no inputs can be read or made, or the model takes batches that they do not fill.
        OutputError: the file exists, or the system rejects.
        MissingExtraError: onnx or ONNX Runtime is not installed, or what exports a module.

    Examples:
        >>> model = twofold.load("net.prototxt", "net.caffemodel")
        >>> quantized = twofold.quantize(model, "net_int8.onnx")
        >>> sorted(quantized.outputs)
        ['prob']
    """
    path = output_path(path)
    source = CalibrationSource.of(source, images=images, image_options=image_options, data=data)
    (model,), data = with_data((model,), example_inputs, source.data)
    sizes = [size // 4 for size in sizes_of([model])]
    with reserved([path], force=force, sizes=sizes), computing_on(device):
        return _quantize(model, path, replace(source, data=data), force=force, extra=extra)


def _quantize(
    model: Any, path: Path, source: CalibrationSource, *, force: bool,
    extra: Callable[[Quantized], Mapping[Path, bytes]] | None,
) -> Quantized:  # fmt: skip
    """See `quantize`."""
    from .weights import round_to_outputs  # noqa: PLC0415 - an extra

    for layer in model.convolutions():
        if isinstance(layer, ConvLayer):
            checked_weight(layer)
    inputs = calibration_inputs(runner_for(model), source)
    with scratch_folder() as place:
        plain, int8 = place / "plain.onnx", place / "int8.onnx"
        prepare(as_onnx(model), plain)
        inputs = fitting(inputs, plain)
        parts = split(inputs)
        fitted, holdout = parts.fitted, parts.holdout
        write_int8(plain, int8, fitted)
        notes = round_to_outputs(plain, int8, fitted)
        outputs, layers = _errors(plain, int8, holdout)
        content = int8.read_bytes()
        sizes = plain.stat().st_size, len(content)

    notes = (*_remarks(outputs), *notes, *fitted.provenance.lines)
    found = Quantized(path, outputs, layers, (fitted.count, holdout.count), sizes, notes)
    files = {path: content, **(extra(found) if extra is not None else {})}

    def check(places: Mapping[Path, Path]) -> None:
        reject_changed(model)
        _Net(places[path].read_bytes()).run(next(iter(holdout)))

    commit({name: partial(_write, content=one) for name, one in files.items()}, force=force, check=check)
    return found


def _remarks(outputs: Mapping[str, float]) -> Iterator[str]:
    """What must not be overlooked in the errors of the outputs."""
    for name, error in outputs.items():
        if (warning := quality_warning(error)) is not None:
            yield f"{name}: {warning}; more inputs to take ranges from, or training in int8 (qat), may help"


def _write(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)


class _Net:
    """A model in ONNX Runtime, with more outputs."""

    def __init__(self, content: bytes, more: Mapping[str, str] | None = None) -> None:
        import onnx  # noqa: PLC0415 - an extra

        proto = onnx.load_from_string(content)
        self.outputs = [value.name for value in proto.graph.output]
        self._more = dict(more or {})
        self._session = session(with_outputs(proto, self._more.values()))

    def run(self, batch: Batch) -> tuple[Outputs, Outputs]:
        """The model's own outputs, and what the layers give."""
        names = [*self.outputs, *self._more.values()]
        found = dict(zip(names, self._session.run(names, batch), strict=True))
        ends = {name: found[name] for name in self.outputs if found[name].dtype == np.float32}
        return ends, {layer: found[name] for layer, name in self._more.items()}


def _errors(plain: Path, int8: Path, inputs: Inputs) -> tuple[dict[str, float], dict[str, float | None]]:
    """Relative errors of the outputs and of what layers give."""
    contents = plain.read_bytes(), int8.read_bytes()
    layers = _layers(*contents)
    nets = [
        _Net(content, {layer: names[index] for layer, names in layers.items() if names})
        for index, content in enumerate(contents)
    ]
    # A value that is looked at keeps a layer from running in int8 as a whole: outputs come from nets apart.
    ends = [_Net(content) for content in contents]
    inside, outside = OutputErrorMetric(), OutputErrorMetric()
    for batch in track(inputs, "measuring what int8 costs"):
        inside.add("", *(net.run(batch)[1] for net in nets))
        outside.add("", *(net.run(batch)[0] for net in ends))
    errors = inside.by_output("") if any(layers.values()) else {}
    return outside.by_output(""), {layer: errors.get(layer) for layer in layers}


def _layers(plain: bytes, int8: bytes) -> dict[str, tuple[str, str] | None]:
    """Name of each layer -> what it gives in either model: its output, or that of the ReLU joined to it."""
    import onnx  # noqa: PLC0415 - an extra
    from onnxruntime.quantization.quant_utils import DEQUANT_OUTPUT_SUFFIX  # noqa: PLC0415

    models: tuple[ModelProto, ...] = tuple(map(onnx.load_from_string, (plain, int8)))
    # The value that a name stands for comes out of a DequantizeLinear; the name itself may be what goes in.
    rounded = {
        name for node in models[1].graph.node if node.op_type == "DequantizeLinear" for name in node.output
    }
    readers: dict[str, list[NodeProto]] = {}
    for node in models[0].graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: dict[str, tuple[str, str] | None] = {}
    for node in models[0].graph.node:
        if node.op_type not in LAYERS:
            continue
        behind = [other.output[0] for other in readers.get(node.output[0], ())]
        pairs = [(v, name) for v in (node.output[0], *behind) for name in (v + DEQUANT_OUTPUT_SUFFIX, v)]
        found[node.name or node.output[0]] = next((pair for pair in pairs if pair[1] in rounded), None)
    return found


def default_path(model: Path, folder: Path) -> Path:
    """Where the command writes the int8 form of a model."""
    return folder / f"{real(model).stem}_int8.onnx"
