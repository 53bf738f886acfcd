"""Shapes of all values of an ONNX model, as far as they can be inferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, TypeProto, ValueInfoProto, helper, shape_inference

from ...conv import Size
from ...errors import ModelError
from .graphs import Graphs
from .tensors import all_tensors

Shape = tuple[int | None, ...]

#: Data of larger tensors never decide a shape; inference gets them without data.
_LARGEST = 1024


def value_shapes(model: ModelProto, inputs: Mapping[str, Size], path: str) -> dict[tuple[int, str], Shape]:
    """Shape of each value by number of its graph and name, None per axis that is not known.

    Args:
        model: the model.
        inputs: shapes of inputs that replace what the model says.
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


def _set_inputs(model: ModelProto, inputs: Mapping[str, Size], path: str) -> None:
    known = {value.name: value for value in fed_inputs(model)}
    for name, size in inputs.items():
        if name not in known:
            raise ModelError(f"{path}: the net has no input {name!r}; it has {', '.join(known) or 'none'}")
        kind: TypeProto.Tensor = known[name].type.tensor_type
        if kind.HasField("shape") and len(kind.shape.dim) != len(size):
            raise ModelError(
                f"{path}: input {name!r} has {len(kind.shape.dim)} axes, not {len(size)} as in {list(size)}"
            )
        kind.shape.ClearField("dim")
        for dim in size:
            kind.shape.dim.add(dim_value=dim)
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
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim
    )


def measured_shapes(model: ModelProto, names: Sequence[str], inputs: Mapping[str, Size]) -> dict[str, Size]:
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
    refusals: tuple[type[Exception], ...] = (ValueError, RuntimeError, *_errors(onnxruntime))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it would warn of what others exported, and of this graph
    try:
        feed = {value.name: _zeros(value, inputs) for value in fed_inputs(model)}
        session = onnxruntime.InferenceSession(
            run.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = session.run([f"{name} shape" for name in names], feed)
    except refusals:
        return {}
    return {name: tuple(map(int, shape)) for name, shape in zip(names, found, strict=True)}


def _zeros(value: ValueInfoProto, inputs: Mapping[str, Size]) -> NDArray[np.generic]:
    shape = inputs.get(value.name, _shape(value))
    definite = tuple(dim for dim in shape or () if dim is not None)
    if shape is None or len(definite) < len(shape):
        raise ValueError(f"input {value.name!r} has no definite shape")
    return np.zeros(definite, helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _errors(onnxruntime: ModuleType) -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: classes of its own that have no common base."""
    found = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    return tuple(one for one in found if isinstance(one, type) and issubclass(one, Exception))
