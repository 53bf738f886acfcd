"""Models that are not files: live objects of a framework, as a `Model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..conv import Array, ConvGeometry, ConvLayer
from ..errors import OptionError
from ..formats.base import Model
from .base import Objects, Part, backend_of, backends


def as_model(model: Any, example_inputs: Any = None) -> Any:
    """Return a model as it is, a PyTorch module as a `TorchModel`, and of a result the model in it.

    Args:
        model: a model, an `nn.Module`, or what `decompose` or `recover` gives.
        example_inputs: for a module, what its forward gets: a tensor or array, a tuple of arguments, or a
            dict.

    Raises:
        OptionError: example inputs for something that is no module, or something that is no model at all.
    """
    for backend in backends():
        if backend.objects is not None and backend.objects.include(model):
            return _adopted(backend.objects, model, example_inputs)
    found: Any = model if _is_model(model) else getattr(model, "model", None)
    if not _is_model(found):
        raise OptionError(
            f"a value of type {type(model).__name__} is no model; "
            "give a torch.nn.Module, or what twofold.load or twofold.decompose returns"
        )
    if example_inputs is None:
        return found
    objects = backend_of(found).objects
    if objects is None:
        raise OptionError("example inputs belong to a torch.nn.Module; a loaded model knows its inputs")
    return _adopted(objects, found, example_inputs)


def _adopted(objects: Objects, value: Any, example_inputs: Any) -> Any:
    return Part(objects.adopt).get("")(value, example_inputs)


def with_data(models: Sequence[Any], example_inputs: Any, data: Any) -> tuple[tuple[Any, ...], Any]:
    """As `as_model`, for forms of one network, all of which get the same inputs.

    What the forward of modules gets is what is said here, what comes with the first of them, the first sample
    of the data, or what comes with another: the first of these that is known.

    Returns:
        The models, and the data, of which nothing is lost.

    Raises:
        OptionError: as `as_model`.
        InputError: the data are no inputs of a module.
    """
    every = [as_model(model) for model in models]
    modules = [one for one in every if backend_of(one).objects is not None]
    if not modules:
        return tuple(as_model(one, example_inputs) for one in every), data
    named = isinstance(data, (str, Path))  # a file can only be read once the shapes are known
    known = modules[0].example_inputs if example_inputs is None else example_inputs
    if known is None and data is not None and not named:
        objects = backend_of(modules[0]).objects
        assert objects is not None, "Bug: no live object"
        known, data = Part(objects.peek).get("")(modules[0], data)
    if known is None:
        known = next((one.example_inputs for one in modules if one.example_inputs is not None), None)
    return tuple(as_model(one, known) if one in modules else one for one in every), data


def _is_model(value: Any) -> bool:
    return callable(getattr(value, "convolutions", None))


def parameters_of(
    model: Model | Mapping[str, Any], wanted: Mapping[str, ConvGeometry]
) -> dict[str, tuple[Array, Array | None]]:
    """Weight and bias of layers of a model, a module, or a module's state_dict, by name.

    Args:
        model: where they are.
        wanted: the layers; those that are not there with this shape are left out.
    """
    if not isinstance(model, Mapping):
        layers = {layer.name: layer for layer in as_model(model).convolutions()}
        there = {name: layers[name] for name in wanted if name in layers}
        return {
            name: (layer.weight, layer.bias)
            for name, layer in there.items()
            if isinstance(layer, ConvLayer)
            and layer.weight is not None
            and layer.weight.shape == wanted[name].weight_shape
        }
    from ..formats.torch.convolution import values  # noqa: PLC0415 - an extra

    found = {}
    for name, geometry in wanted.items():
        weight, bias = model.get(f"{name}.weight"), model.get(f"{name}.bias")
        if weight is not None and tuple(weight.shape) == geometry.semantics.stored_shape(geometry):
            found[name] = (
                geometry.semantics.canonical(values(weight), geometry),
                None if bias is None else values(bias),
            )
    return found
