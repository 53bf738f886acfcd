"""Whole networks, ready to be timed: their inputs, and their files in a folder of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends import Backend, backend_of, backends
from ..backends.exported import as_onnx
from ..conv import Size
from ..errors import InputError, ModelError, shape_option
from ..files.scratch import scratch_folder
from .runtimes import Run, Runtime, Whole

Arrays = dict[str, NDArray[Any]]


def inputs_of(model: Any) -> Arrays:
    """Values for all inputs of a model, of the sizes that it declares.

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
    shape, _ = next(iter(_declared(model).values()), ((), None))
    return shape[0] if shape else 1


def _declared(model: Any) -> dict[str, tuple[Size, np.dtype[Any]]]:
    """Shapes and types of the inputs."""
    part = backend_of(model).part("inputs", "be timed: the sizes of their inputs are not known")
    found: dict[str, tuple[Size, np.dtype[Any]]] = part.get("timing")(model)
    for name, (shape, _) in found.items():
        if shape is None:
            raise InputError(f"the size of input {name!r} is not known; give it: {shape_option(name)}")
    return found


def form_for(runtime: Runtime, backend: Backend) -> str | None:
    """The form in which a runtime gets models of a format; None where it does not run them."""
    return next((form for form in runtime.reads if form in backend.forms), None)


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
    backend = backend_of(model)
    form = form_for(runtime, backend)
    if form is None:
        takes = " and ".join(str(one) for one in backends() if form_for(runtime, one) is not None)
        raise ModelError(f"{runtime.label} does not run {backend} models, only {takes}")
    inputs = inputs_of(model)
    return Whole(form, backend.form(form)(model, folder, inputs), inputs)


def saved(model: Any, folder: Path, inputs: Arrays) -> tuple[Path, ...]:
    """The form of a model that is its own files."""
    paths: tuple[Path, ...] = model.targets(folder)
    model.save_to(folder, force=True, extra={}, check=lambda written: None)
    return paths


def exported(model: Any, folder: Path, inputs: Arrays) -> tuple[Path, ...]:
    """The form "onnx" of a model that can be exported: one file."""
    proto = as_onnx(model)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return (path,)
