"""Shapes of all values of an ONNX model, as far as they can be inferred."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from onnx import (
    ModelProto,
    NodeProto,
    TensorProto,
    TensorShapeProto,
    TypeProto,
    ValueInfoProto,
    helper,
    shape_inference,
)

from ...conv import Size
from ...errors import ModelError
from .graphs import Graphs, Scope, holder_of
from .tensors import all_tensors, is_external

Shape = tuple[int | None, ...]

#: Data of larger tensors never decide a shape; inference gets them without data.
_LARGEST = 1024


#: Values of an input that is run for the shapes of others: a gigabyte.
_MOST_ZEROS = 2**28


def value_shapes(model: ModelProto, inputs: Mapping[str, Shape], path: str) -> dict[tuple[int, str], Shape]:
    """Shape of each value by number of its graph and name, None per axis that is not known.

    Args:
        model: the model.
        inputs: shapes of inputs that replace what the model says, None per axis of which they say nothing.
        path: of the model, for messages.

    Raises:
        ModelError: the model has no such input, or the shape has another number of axes.
    """
    light = _without_data(model)
    if inputs:
        _set_inputs(light, inputs, path)
    with suppress(shape_inference.InferenceError):  # then what the file says is all that is known
        light = shape_inference.infer_shapes(light, data_prop=True)
    return {
        (scope.number, value.name): shape
        for scope in Graphs(light).scopes
        for value in (*scope.graph.input, *scope.graph.value_info, *scope.graph.output)
        if (shape := _shape(value)) is not None
    }


class ValueShapes:
    """Shapes of values for samples as the model takes them; for one sample where it takes any number.

    What is inferred comes first, then what a run on zeros shows.
    """

    def __init__(
        self, graphs: Graphs, inputs: Mapping[str, Size], path: str,
        nodes: Sequence[tuple[Scope, int, NodeProto]],
    ) -> None:  # fmt: skip
        """Find the shapes of what some nodes read."""
        model = graphs.model
        single = {
            name: (1, *shape[1:])
            for name, shape in input_shapes(model).items()
            if name not in inputs and shape and shape[0] is None
        }
        filled = {**inputs, **single}
        self._known = value_shapes(model, inputs, path)
        if single:
            known = value_shapes(model, filled, path)
            self._known |= {key: shape for key, shape in known.items() if not self._is_known(key, shape)}
        wanted = dict.fromkeys(
            name
            for scope, _, node in nodes
            for name in node.input
            if (holder := holder_of(scope, name)) is not None and holder.number == 0
            if self._is_unknown(holder, name)
        )
        if wanted and not any(map(is_external, all_tensors(model))):
            for name, shape in measured_shapes(model, tuple(wanted), filled).items():
                self._known[0, name] = shape

    def _is_known(self, key: tuple[int, str], instead: Shape) -> bool:
        """Whether more is known of a value than another shape says."""
        known = self._known.get(key)
        return known is not None and known[1:].count(None) < instead[1:].count(None)

    def _is_unknown(self, holder: Scope, name: str) -> bool:
        if name in holder.tensors or name in holder.sparse:
            return False
        return None in self._known.get((0, name), (None, None))[1:]

    def of(self, scope: Scope, name: str) -> Shape | None:
        """The shape of a value as a graph sees it; None where nothing is known."""
        holder = holder_of(scope, name) if name else None
        if holder is None:
            return None
        stored = holder.tensors.get(name)
        return tuple(stored.dims) if stored is not None else self._known.get((holder.number, name))


#: Axes of a batch of images.
_IMAGE_AXES = 4


def batch_size(shapes: Mapping[str, Shape | None]) -> int | None:
    """Samples that inputs of these shapes hold; None for any number.

    That is the first axis of the input with most axes, or 1 where that is free and another input's is 1. A
    recurrent state has its layers first and the batch second, as (2, 1, 128): where another input holds one
    sample, no input with fewer axes than images says how many there are.
    """
    known = [shape for shape in shapes.values() if shape]
    first: Shape = max(known, key=len, default=())
    if not first:
        return 1
    single = any(shape[0] == 1 and (first[0] is None or len(shape) > 1) for shape in known)
    return 1 if single and (first[0] is None or len(first) < _IMAGE_AXES) else first[0]


def batch_of(model: ModelProto, inputs: Mapping[str, Size]) -> int:
    """Samples that a model takes at a time; 1 where it takes any number."""
    return batch_size({**input_shapes(model), **inputs}) or 1


def integer_values(model: ModelProto) -> set[str]:
    """Names of values of the main graph that are known to be whole numbers or truths."""
    light = _without_data(model)
    with suppress(shape_inference.InferenceError):
        light = shape_inference.infer_shapes(light)
    floats = {
        TensorProto.UNDEFINED, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
    }  # fmt: skip
    graph = light.graph
    return {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type not in floats
    }


def _without_data(model: ModelProto) -> ModelProto:
    light = ModelProto()
    light.CopyFrom(model)
    for tensor in all_tensors(light):
        size = 1
        for dim in tensor.dims:
            size *= dim
        if size > _LARGEST:
            for field in ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data"):
                tensor.ClearField(field)
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.DEFAULT
    return light


def _set_inputs(model: ModelProto, inputs: Mapping[str, Shape], path: str) -> None:
    known = {value.name: value for value in fed_inputs(model)}
    for name, size in inputs.items():
        if name not in known:
            raise ModelError(f"{path}: the net has no input {name!r}; it has {', '.join(known) or 'none'}")
        tensor: TypeProto.Tensor = known[name].type.tensor_type
        if tensor.HasField("shape") and len(tensor.shape.dim) != len(size):
            raise ModelError(
                f"{path}: input {name!r} has {len(tensor.shape.dim)} axes, not {len(size)} as in {list(size)}"
            )
        free = list(tensor.shape.dim) or [None] * len(size)
        new = [
            TensorShapeProto.Dimension(dim_value=dim) if dim else old
            for dim, old in zip(size, free, strict=True)
        ]
        tensor.shape.ClearField("dim")
        tensor.shape.dim.extend(dim or TensorShapeProto.Dimension() for dim in new)
    # What the file says of the values in between belongs to its own input shapes.
    for scope in Graphs(model).scopes:
        scope.graph.ClearField("value_info")
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()


def input_shapes(model: ModelProto) -> dict[str, Shape | None]:
    """Shapes of the inputs as the file gives them, None per axis that is free; None where it says nothing."""
    return {value.name: _shape(value) for value in fed_inputs(model)}


def fed_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs that have no stored value."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    stored |= {sparse.values.name for sparse in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in stored]


def _shape(value: ValueInfoProto) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim
    )


def measured_shapes(model: ModelProto, names: Sequence[str], inputs: Mapping[str, Shape]) -> dict[str, Size]:
    """Shapes of values of the main graph, from a run on zeros in ONNX Runtime.

    Args:
        model: a model without external data.
        names: the values.
        inputs: shapes of inputs that replace what the model says.

    Returns:
        By name; empty where inputs have no definite shape, or the model does not run.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - slow, and seldom needed
    except ModuleNotFoundError:
        return {}
    run = ModelProto()
    run.CopyFrom(model)
    for name in names:
        run.graph.node.add(op_type="Shape", input=[name], output=[f"{name} shape"])
        run.graph.output.append(helper.make_tensor_value_info(f"{name} shape", TensorProto.INT64, None))
    rejections: tuple[type[Exception], ...] = (ValueError, RuntimeError, MemoryError, *_errors(onnxruntime))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it would warn of what others exported, and of this graph
    try:
        feed = {value.name: _zeros(value, inputs) for value in fed_inputs(model)}
        session = onnxruntime.InferenceSession(
            run.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = session.run([f"{name} shape" for name in names], feed)
    except rejections:
        return {}
    return {name: tuple(map(int, shape)) for name, shape in zip(names, found, strict=True)}


def _zeros(value: ValueInfoProto, inputs: Mapping[str, Shape]) -> NDArray[np.generic]:
    shape = inputs.get(value.name, _shape(value))
    definite = tuple(dim for dim in shape or () if dim is not None)
    if shape is None or len(definite) < len(shape):
        raise ValueError(f"input {value.name!r} has no definite shape")
    if math.prod(definite) > _MOST_ZEROS:
        raise ValueError(f"input {value.name!r} is too large to be run for shapes alone")
    elem_type = value.type.tensor_type.elem_type
    if elem_type == TensorProto.UNDEFINED:
        raise ValueError(f"input {value.name!r} has no type")
    return np.zeros(definite, helper.tensor_dtype_to_np_dtype(elem_type))


def _errors(onnxruntime: ModuleType) -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: classes of its own that have no common base."""
    found = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    return tuple(one for one in found if isinstance(one, type) and issubclass(one, Exception))
