"""Models that are not files: an object that a framework gives, as a `Model`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..conv import Array, ConvGeometry, ConvLayer
from ..errors import OptionError

if TYPE_CHECKING:
    from torch.nn import Module


def as_model(model: Any, example_inputs: Any = None) -> Any:
    """Return a model as it is, and a PyTorch module as a `TorchModel`.

    Args:
        model: a model, or an `nn.Module`.
        example_inputs: for a module, what its forward gets: a tensor, a tuple of arguments, or a dict.

    Raises:
        OptionError: example inputs for something that is no module, or something that is no model at all.
    """
    if is_module(model):
        from .torch.model import TorchModel  # noqa: PLC0415 - an extra

        return TorchModel(model, example_inputs)
    if not callable(getattr(model, "convolutions", None)):
        raise OptionError(
            f"cannot decompose a value of type {type(model).__name__}; "
            "give a torch.nn.Module, or what twofold.load returns"
        )
    if example_inputs is not None:
        raise OptionError("example inputs belong to a torch.nn.Module; a loaded model knows its inputs")
    return model


def with_data(model: Any, example_inputs: Any, data: Any) -> tuple[Any, Any]:
    """As `as_model`, where data are given, too: a module's first sample then serves as its example inputs.

    Returns:
        The model, and the data, of which nothing is lost.

    Raises:
        OptionError: as `as_model`.
        InputError: the data are no inputs of a module.
    """
    named = isinstance(data, (str, Path))  # a file can only be read once the shapes are known
    if is_module(model) and example_inputs is None and data is not None and not named:
        from .torch.inputs import peeked  # noqa: PLC0415 - an extra

        example_inputs, data = peeked(model, data)
    return as_model(model, example_inputs), data


def restructured(
    module: Module, chains: Mapping[str, Sequence[ConvGeometry]], biased: Collection[str]
) -> Module:
    """See `formats.torch.model.restructured`."""
    from .torch.model import restructured as put  # noqa: PLC0415 - an extra

    return put(module, chains, biased)


def parameters_of(
    model: Any, wanted: Mapping[str, ConvGeometry]
) -> dict[str, tuple[Array, Array | None]]:  # fmt: skip
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
    from .torch.convolution import values  # noqa: PLC0415 - an extra

    found = {}
    for name, geometry in wanted.items():
        weight, bias = model.get(f"{name}.weight"), model.get(f"{name}.bias")
        if weight is not None and tuple(weight.shape) == geometry.meaning.stored_shape(geometry):
            found[name] = (
                geometry.meaning.canonical(values(weight), geometry),
                None if bias is None else values(bias),
            )
    return found


def is_module(model: Any) -> bool:
    """Whether a value is a PyTorch module."""
    # Whoever has a module has imported torch.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)
