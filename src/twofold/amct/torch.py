"""AMCT's calls for PyTorch: `auto_decomposition` and `decompose_network`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..conv import ConvLayer, FactorConv, Factors
from ..decomposition.decompose import decompose
from ..errors import MissingExtraError
from ..formats.base import commit, output_path, preflight
from ..lowrank import scheme
from ..planning import Plan

if TYPE_CHECKING:
    from torch import nn

Changes = dict[str, list[str]]


def auto_decomposition(
    model: nn.Module, decompose_info_path: str | Path | None = None
) -> tuple[nn.Module, Changes]:
    """Decompose a module as AMCT's function of this name does, better.

    Spends the MACs that AMCT's rule would spend, and never more, but spreads them over the layers so that the
    error is smallest. The module itself is changed, as AMCT does; only a module that is nothing but a
    convolution gives a new one. Call it before the parameters go to an optimizer, or the module to a wrapper.

    Args:
        model: the module with its trained weights.
        decompose_info_path: where to write what was decided, as JSON, for `decompose_network`.

    Returns:
        The module, and what became of each layer: {"conv1": ["conv1.0", "conv1.1"]}.

    Raises:
        TwofoldError: what `decompose` rejects, or the file cannot be written.
    """
    torch_model = _model(model)
    if decompose_info_path is not None:
        preflight([output_path(decompose_info_path, "decompose_info_path")])
    result = decompose(torch_model)
    if decompose_info_path is not None:
        content = result.plan.to_json().encode()
        commit({Path(decompose_info_path): lambda stream: _write(stream, content)}, force=True)
    return _changed(model, result.factors)


def decompose_network(model: nn.Module, decompose_info_path: str | Path) -> tuple[nn.Module, Changes]:
    """Give a module the structure that `auto_decomposition` gave it, for weights that are loaded afterwards.

    The module itself is changed, as there; the new convolutions have the values that `nn.Conv2d` draws.

    Args:
        model: a module of the same structure as the one that was decomposed.
        decompose_info_path: the file that `auto_decomposition` wrote, or a plan.

    Returns:
        As `auto_decomposition`.

    Raises:
        PlanError: the file does not fit the module, or is no plan.
    """
    layers = _model(model).convolutions()
    plan = Plan.load(decompose_info_path).check(layers)
    by_name = {layer.name: layer for layer in layers if isinstance(layer, ConvLayer)}
    factors = {}
    for choice in plan.choices:
        chain = scheme(choice.scheme).chain(choice.geometry, choice.variant, choice.ranks)
        convs = [FactorConv(one, np.zeros(one.weight_shape, np.float32)) for one in chain]
        if by_name[choice.layer].bias is not None:
            convs[-1] = FactorConv(chain[-1], convs[-1].weight, np.zeros(choice.geometry.c_out, np.float32))
        factors[choice.layer] = Factors(choice.scheme, choice.ranks, tuple(convs))
    changed, changes = _changed(model, factors)
    for name in (one for names in changes.values() for one in names):
        changed.get_submodule(name).reset_parameters()  # type: ignore[operator]
    return changed, changes


def _model(module: nn.Module) -> Any:
    try:
        from ..formats.torch.model import TorchModel  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("decomposing modules", "torch", "torch") from error
    return TorchModel(module)


def _changed(module: nn.Module, factors: dict[str, Factors] | Any) -> tuple[nn.Module, Changes]:
    from ..formats.torch.model import replace_in, stack_names  # noqa: PLC0415 - an extra

    changes = {name: list(stack_names(name, len(stack.convs))) for name, stack in factors.items()}
    return replace_in(module, factors), changes


def _write(stream: Any, content: bytes) -> None:
    stream.write(content)
