"""Whole networks, ready to be timed: their inputs, and their files in a folder of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conv import Size
from ..errors import InputError, ModelError, shape_option
from ..files.scratch import scratch_folder
from ..formats.caffe.shapes import walk_shapes
from .runtimes import Run, Runtime, Whole

Arrays = dict[str, NDArray[Any]]


def inputs_of(model: Any) -> Arrays:
    """Values for all inputs of a model, of the sizes that it declares; none for a PyTorch module.

    Raises:
        InputError: the size of an input is not known.
    """
    generator = np.random.default_rng(0)
    return {
        name: generator.random(shape, np.float32).astype(kind)
        for name, (shape, kind) in _declared(model).items()
    }


def batch_of(model: Any) -> int:
    """Images per run.

    Raises:
        InputError: the size of an input is not known.
    """
    example = getattr(model, "example_inputs", None)
    if example is not None:
        values = list(example.values()) if isinstance(example, dict) else example
        first = values[0] if isinstance(values, (list, tuple)) else values
        return int(first.shape[0])
    declared = _declared(model)
    if not declared:
        raise InputError("the model has no example inputs, so it cannot be timed; give example_inputs")
    shape, _ = next(iter(declared.values()))
    return shape[0] if shape else 1


def _declared(model: Any) -> dict[str, tuple[Size, np.dtype[Any]]]:
    """Shapes and types of the inputs."""
    kind = type(model).__name__
    found = {"CaffeModel": _caffe, "OnnxModel": _onnx}.get(kind, lambda model: {})(model)
    for name, (shape, _) in found.items():
        if shape is None:
            raise InputError(f"the size of input {name!r} is not known; give it: {shape_option(name)}")
    return found


def _caffe(model: Any) -> dict[str, Any]:
    net = model.net("TEST")
    read = {name for spec in net.layers for name in spec.bottoms}
    single = np.dtype(np.float32)
    return {
        name: (shape, single)
        for spec, (_, tops) in zip(net.layers, walk_shapes(net, model.inputs), strict=True)
        for name, shape in tops.items()
        if not spec.bottoms and name in read and spec.type not in ("DummyData", "Parameter")
    }


def _onnx(model: Any) -> dict[str, Any]:
    from onnx import helper  # noqa: PLC0415 - the model is there, and so is onnx

    graph = model.proto.graph
    constant = {tensor.name for tensor in graph.initializer}
    found: dict[str, Any] = {}
    for value in graph.input:
        if value.name in constant:
            continue
        tensor = value.type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
        # The batch is open in most models; one image then.
        sizes = [1 if not axis and not size else size for axis, size in enumerate(sizes)]
        shape = model.inputs.get(value.name, tuple(sizes) if all(sizes) else None)
        found[value.name] = (shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return found


@contextmanager
def opened(runtime: Runtime, threads: int, *models: Any) -> Iterator[tuple[Run, ...]]:
    """Models ready to run in a runtime.

    Raises:
        ModelError: the runtime does not run models of this kind, or not this one.
    """
    with scratch_folder() as folder:
        wholes = [_written(runtime, model, folder / str(i)) for i, model in enumerate(models)]
        with runtime.running(threads):
            yield tuple(runtime.whole(whole, threads) for whole in wholes)


def _written(runtime: Runtime, model: Any, folder: Path) -> Whole:
    kind = type(model).__name__
    if kind not in runtime.kinds:
        takes = {"CaffeModel": "Caffe", "OnnxModel": "ONNX", "TorchModel": "PyTorch"}
        raise ModelError(
            f"{runtime.label} does not run {takes.get(kind, kind)} models, only "
            f"{' and '.join(takes.get(one, one) for one in runtime.kinds)}"
        )
    inputs = inputs_of(model)
    if kind == "TorchModel":
        batch_of(model)
        return Whole(model, (), inputs)
    paths = model.targets(folder)
    model.save_to(folder, force=True, extra={}, check=lambda written: None)
    return Whole(model, paths, inputs)
