"""Caffe to ONNX: written, and run beside the net that it was made from, before the file takes its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .conv import Size
from .errors import InputError, MissingExtraError, ModelError, OptionError, OutputError, shape_option, without
from .formats.base import commit, output_path, reject_changed, reserved, sizes_of
from .formats.caffe.model import CaffeModel
from .formats.caffe.shapes import walk_shapes
from .text import ranks_text

if TYPE_CHECKING:
    from onnx import ModelProto

    from .caffe_onnx import Traced
    from .caffe_torch import CaffeNet

Arrays = dict[str, NDArray[np.float32]]

#: Largest difference of an output between the runtimes, in units of its largest value.
TOLERANCE = 1e-4
#: Bytes that a protobuf message can have.
_LARGEST_MESSAGE = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Graph:
    """A net as an ONNX model, not written yet.

    Attributes:
        proto: the model.
        traces: runs of the net that it is checked against, one per batch that it must take.
        notes: what a reader should know.
    """

    proto: ModelProto
    traces: tuple[Traced, ...]
    notes: tuple[str, ...]

    def difference(self, content: bytes | str) -> float:
        """Largest difference between ONNX Runtime and PyTorch, in units of each output's largest value.

        Args:
            content: the model, or the path of its file.

        Raises:
            OutputError: ONNX Runtime rejects the model, or gives other shapes.
        """
        session = _session(content)
        return max(_difference(session, traced) for traced in self.traces)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        inputs: shapes of the inputs; None where the batch is open.
        outputs: names of the outputs.
        difference: largest between ONNX Runtime and PyTorch, in units of each output's largest value.
        notes: what a reader should know.
    """

    path: Path
    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: tuple[str, ...]
    difference: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        sizes = {
            name: "x".join("N" if size is None else str(size) for size in shape)
            for name, shape in self.inputs.items()
        }
        return "\n".join(
            [
                f"inputs: {', '.join(f'{name} {size}' for name, size in sizes.items())}",
                f"outputs: {', '.join(self.outputs)}",
                f"ONNX Runtime and PyTorch differ by {self.difference:.1e} of an output's largest value",
                *self.notes,
            ]
        )


@without("no_data", "skip")
def export(model: Any, path: str | Path, *, force: bool = False) -> Exported:
    """Write a Caffe model as ONNX.

    The batch stays open where the net can be run with any. The file is read again and run by ONNX Runtime
    beside the net in PyTorch before it takes its name.

    Args:
        model: what `load` gives for a Caffe net, or the `model` of a result.
        path: where it goes.
        force: exchange a file that exists.

    Raises:
        OptionError: no Caffe model.
        ModelError: a layer that cannot be exported; how to register one.
        InputError: the shape of an input is not known.
        OutputError: the file exists, the system rejects, or the outputs differ.
        MissingExtraError: PyTorch, onnx or ONNX Runtime is not installed.

    Examples:
        >>> model = twofold.load("net.prototxt", "net.caffemodel")
        >>> exported = twofold.export(model, "caffe-net.onnx")
        >>> exported.path.name
        'caffe-net.onnx'
    """
    path = output_path(path)
    with reserved([path], force=force, sizes=sizes_of([model])):
        return _export(model, path, force=force)


def _export(model: Any, path: Path, *, force: bool) -> Exported:
    """See `export`."""
    graph = to_onnx(model)
    if graph.proto.ByteSize() > _LARGEST_MESSAGE:
        raise OutputError(
            f"{path}: a model of {graph.proto.ByteSize() / 2**30:.1f} GiB does not fit into one file"
        )
    content = graph.proto.SerializeToString(deterministic=True)
    found: list[float] = []

    def check(places: Mapping[Path, Path]) -> None:
        reject_changed(model)
        found.append(_checked(graph, str(places[path])))

    commit({path: lambda stream: _write(stream, content)}, force=force, check=check)
    inputs = {value.name: _sizes(value) for value in graph.proto.graph.input}
    outputs = tuple(value.name for value in graph.proto.graph.output)
    return Exported(path, inputs, outputs, found[0], graph.notes)


def to_onnx(model: Any) -> Graph:
    """A Caffe model as an ONNX model in memory; see `export`."""
    if not isinstance(model, CaffeModel):
        raise OptionError(
            f"{type(model).__name__} is no Caffe model; ONNX models are ONNX already, and torch.onnx.export "
            "exports PyTorch modules"
        )
    from .caffe_torch import to_torch  # noqa: PLC0415 - needs PyTorch

    return net_to_onnx(to_torch(model, "TEST").eval(), model.inputs)


def as_message(model: CaffeModel) -> ModelProto:
    """A Caffe model as an ONNX message."""
    return to_onnx(model).proto


def net_to_onnx(net: CaffeNet, inputs: Mapping[str, Size], outputs: tuple[str, ...] = ()) -> Graph:
    """A Caffe net in torch as an ONNX model in memory.

    Args:
        net: in its test phase, on the CPU.
        inputs: shapes of inputs that replace what the definition says.
        outputs: blobs that the model gives; by default all that the net computes and nothing reads.

    Raises:
        ModelError: a layer that cannot be exported; how to register one.
        InputError: the shape of an input is not known.
        MissingExtraError: onnx or ONNX Runtime is not installed.
    """
    try:
        import onnx  # noqa: PLC0415 - an extra
        import onnxruntime  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("exporting to ONNX", "onnx", "onnx") from error
    from .caffe_onnx import emit_net, trace  # noqa: PLC0415 - needs PyTorch
    from .caffe_onnx.net import graph_outputs  # noqa: PLC0415
    from .caffe_onnx.registry import LEFT_OUT  # noqa: PLC0415

    every, left_out = graph_outputs(net)
    outputs = outputs or every
    shapes = _input_shapes(net, inputs, outputs)
    first = trace(net, _samples(shapes), outputs)
    other = _other_batch(net, shapes, outputs)
    notes = tuple(
        f"layer {spec.name!r} ({spec.type}) is left out: {LEFT_OUT[spec.type]}"
        for spec in left_out
        if spec.tops
    )
    graph = Graph(emit_net(net, first, other), (first,) if other is None else (first, other), notes)
    if other is not None and _fails(graph):
        graph, other = Graph(emit_net(net, first, None), (first,), notes), None
    if other is None:
        fixed = ", ".join(f"{name} {ranks_text(shape)}" for name, shape in shapes.items())
        graph = Graph(graph.proto, graph.traces, (*notes, f"the batch is fixed: {fixed}"))
    onnx.checker.check_model(graph.proto, full_check=True)
    return graph


def _input_shapes(net: CaffeNet, inputs: Mapping[str, Size], outputs: tuple[str, ...]) -> dict[str, Size]:
    """Shapes of the inputs that the outputs depend on."""
    from .caffe_torch.schedule import schedule  # noqa: PLC0415 - needs PyTorch

    specs, found = net.definition.layers, {}
    steps = schedule(specs, 0, len(specs), outputs)
    # A data layer may give labels, too, which none of them reads.
    wanted = {*outputs, *(name for one in steps for name in specs[one.index].bottoms)}
    for spec, (_, tops) in zip(specs, walk_shapes(net.definition, inputs), strict=True):
        for name in () if spec.bottoms else net.inputs:
            if name in tops and name in wanted:
                shape = tops[name]
                if shape is None:
                    raise InputError(
                        f"the shape of input {name!r} is not known; give it: {shape_option(name)}"
                    )
                found[name] = shape
    return found


def _samples(shapes: Mapping[str, Size]) -> Arrays:
    # Between 0 and 1: what logarithms, exponentials and indices can take.
    generator = np.random.default_rng(0)
    return {name: generator.random(shape, np.float32) for name, shape in shapes.items()}


def _other_batch(net: CaffeNet, shapes: Mapping[str, Size], outputs: tuple[str, ...]) -> Traced | None:
    """A run with one more sample; None where the net cannot do it."""
    from .caffe_onnx import trace  # noqa: PLC0415 - needs PyTorch

    batches = {shape[0] for shape in shapes.values() if shape}
    if len(batches) != 1 or not all(shapes.values()):
        return None
    more = {name: (shape[0] + 1, *shape[1:]) for name, shape in shapes.items()}
    try:
        return trace(net, _samples(more), outputs)
    except ModelError:
        return None


def _fails(graph: Graph) -> bool:
    """Whether a graph cannot do what the net does with one of the batches."""
    try:
        return not graph.difference(graph.proto.SerializeToString()) <= TOLERANCE
    except OutputError:
        return True


def _checked(graph: Graph, path: str) -> float:
    found = graph.difference(path)
    if not found <= TOLERANCE:
        raise OutputError(
            f"what was written gives other outputs in ONNX Runtime than the net in PyTorch: they differ by "
            f"{found:.1e} of an output's largest value, {TOLERANCE:g} is allowed"
        )
    return found


def _session(content: bytes | str) -> Any:
    import onnxruntime  # noqa: PLC0415 - an extra

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise OutputError(f"ONNX Runtime rejects the exported model: {error}") from error


def _difference(session: Any, traced: Traced) -> float:
    try:
        found = session.run(None, dict(traced.inputs))
    except Exception as error:
        raise OutputError(f"ONNX Runtime cannot run the exported model: {error}") from error
    largest = 0.0
    for (name, wanted), got in zip(traced.outputs.items(), found, strict=True):
        if got.shape != wanted.shape:
            raise OutputError(
                f"output {name!r} has shape {list(got.shape)} in ONNX Runtime, but {list(wanted.shape)} "
                "in PyTorch"
            )
        largest = max(largest, relative_difference(got, wanted))
    return largest


def relative_difference(got: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Largest difference in units of the largest wanted value; infinite where only one is not finite."""
    if np.array_equal(got, wanted, equal_nan=True):
        return 0.0
    if not np.array_equal(np.isfinite(got), np.isfinite(wanted)):
        return float("inf")
    finite = np.isfinite(wanted)
    exact = wanted[finite].astype(np.float64)
    return float(np.abs(got[finite] - exact).max(initial=0) / max(np.abs(exact).max(initial=0), 1e-30))


def _sizes(value: Any) -> tuple[int | None, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)


def _write(stream: Any, content: bytes) -> None:
    stream.write(content)
