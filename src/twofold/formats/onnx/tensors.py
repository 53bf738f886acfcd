"""Tensors of an ONNX file, inline or in files beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from ...conv import Array
from ...errors import FormatError, ModelError
from ...files.links import data_file
from ...system import reading

#: Weights that are decomposed -> significant bits of their values.
BITS: dict[int, int] = {
    TensorProto.FLOAT: 24,
    TensorProto.DOUBLE: 53,
    TensorProto.FLOAT16: 11,
    TensorProto.BFLOAT16: 8,
}

Files = Mapping[str, Path]
"""Location of external data as the model names it -> where the file is."""


def is_external(tensor: TensorProto) -> bool:
    """Whether a tensor's data are in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def external_entry(tensor: TensorProto, key: str) -> str:
    """One entry of the description of external data; "" if there is none."""
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model that may have external data: initializers and attributes, in functions too."""
    yield from _of_graph(model.graph)
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)
    for function in model.functions:
        for node in function.node:
            for attribute in node.attribute:
                yield from _of_attribute(attribute)


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from _of_attribute(attribute)


def _of_attribute(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("g"):
        yield from _of_graph(attribute.g)
    for graph in attribute.graphs:
        yield from _of_graph(graph)


def external_files(model: ModelProto, path: Path) -> dict[str, Path]:
    """The files beside a model that hold its data, without links.

    Raises:
        FormatError: one is missing, or lies outside the model's folder; or a tensor's part of it does.
    """
    files: dict[str, Path] = {}
    sizes: dict[str, int] = {}
    for tensor in filter(is_external, all_tensors(model)):
        location = external_entry(tensor, "location")
        if location not in files:
            files[location] = data_file(path, location, tensor.name)
            sizes[location] = _size(files[location])
        try:
            offset, length = offset_of(tensor), byte_count(tensor)
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from error
        if offset + length > sizes[location]:
            raise FormatError(
                f"{path}: tensor {tensor.name!r} cannot be read: its data are {length} bytes at {offset} in "
                f"{location!r}, which has only {sizes[location]}; is it cut off, or of another model?"
            )
    return files


def _size(path: Path) -> int:
    with reading(path, "a data file"):
        return path.stat().st_size


def offset_of(tensor: TensorProto) -> int:
    """Where in its file the data of a tensor begin, in bytes.

    Raises:
        FormatError: that is no such number.
    """
    return _number(tensor, "offset") or 0


def byte_count(tensor: TensorProto) -> int:
    """Bytes of a tensor's data as raw data.

    Raises:
        FormatError: what says so is no such number, or an unknown type.
    """
    given = _number(tensor, "length")
    if given is not None:  # types of fewer than 8 bits are packed; only the entry tells their length
        return given
    try:
        storage: np.dtype[np.generic] = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"tensor {tensor.name!r} has values of type {tensor.data_type}, unknown here"
        ) from error
    if any(size < 0 for size in tensor.dims):
        raise FormatError(f"tensor {tensor.name!r} has the shape {list(tensor.dims)}")
    return math.prod(map(int, tensor.dims)) * storage.itemsize


def _number(tensor: TensorProto, key: str) -> int | None:
    """An entry of the description of external data that is a number of bytes; None if there is none."""
    given = external_entry(tensor, key)
    if not given:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) < 20):
        raise FormatError(
            f"tensor {tensor.name!r} has data with the {key} {given[:32]!r}, no number of bytes"
        )
    return int(given)


def read_array(tensor: TensorProto, files: Files) -> NDArray[np.generic]:
    """The values of a tensor.

    Raises:
        FormatError: its data are too short, or not readable.
    """
    try:
        if is_external(tensor):
            location = external_entry(tensor, "location")
            with files[location].open("rb") as stream:
                stream.seek(offset_of(tensor))
                data = stream.read(byte_count(tensor))
            inline = TensorProto(
                name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=data
            )
            return np.asarray(numpy_helper.to_array(inline))
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, OSError) as error:
        raise FormatError(f"tensor {tensor.name!r} cannot be read: {error}") from error


def read_weight(tensor: TensorProto, files: Files) -> Array:
    """A tensor of one of the types in `BITS`, as float32 or float64."""
    wide = tensor.data_type == TensorProto.DOUBLE
    return read_array(tensor, files).astype(np.float64 if wide else np.float32)


def new_tensor(name: str, array: Array, like: TensorProto) -> TensorProto:
    """A tensor of another's type that is to be stored where that one is.

    Data that belong beside the model are inline until it is written; the location waits in `external_data`.

    Raises:
        ModelError: the type cannot hold a value.
    """
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array.astype(helper.tensor_dtype_to_np_dtype(like.data_type)))
    if not np.isfinite(stored.astype(np.float64)).all():
        type_name = TensorProto.DataType.Name(like.data_type)
        raise ModelError(
            f"{name}: {np.abs(array).max():.4g} is too large for {type_name}, the type of {like.name!r}; "
            "convert the model to float32 first"
        )
    tensor: TensorProto = numpy_helper.from_array(stored, name)
    location = external_entry(like, "location")
    if location:
        tensor.external_data.add(key="location", value=location)
    return tensor
