"""What stands in the way of replacing a layer's module, and new modules like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ...conv import Array, ConvGeometry, FactorConv
from ...errors import ModelError
from .layer_types.base import LayerAdapter, adapter_of, plain, registered

#: Modules that read the weights of layers in them by themselves, without calling them.
READ_BY: tuple[type[nn.Module], ...] = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
#: Types of weights -> significant bits of their values.
BITS = {torch.float32: 24, torch.float64: 53, torch.float16: 11, torch.bfloat16: 8}

#: Methods that say what a module computes.
_CALLS = ("forward", "_conv_forward", "_output_padding", "__call__")
#: Attributes of a module that hold its hooks.
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
#: Hooks that compute a weight at every call -> what that is called, and the call that ends it.
_COMPUTED: Mapping[type, tuple[str, str]] = {
    WeightNorm: ("weight_norm", "torch.nn.utils.remove_weight_norm"),
    SpectralNorm: ("spectral_norm", "torch.nn.utils.remove_spectral_norm"),
    BasePruningMethod: ("pruning", "torch.nn.utils.prune.remove"),
}
#: Layouts that keep the channels of a pixel together, by number of a weight's axes.
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def rejection(module: nn.Module) -> str | None:
    """Why a layer cannot be replaced, whatever its shape; None where it can."""
    class_name = type(module).__name__
    known = registered(module)
    if known is None:
        return f"quantized ({class_name}); decompose first, then quantize"
    computed = removal(module)
    if computed is not None:
        return computed
    own = [name for name in _CALLS if getattr(type(module), name, None) is not getattr(known, name, None)]
    if own or "forward" in vars(module):
        return f"a subclass with a forward of its own ({class_name})"
    reason = adapter_for(module).rejection(module) or _parameter_rejection(module)
    if reason is not None:
        return reason
    hooks = [name.strip("_").replace("_", " ") for name in _HOOKS if getattr(module, name, None)]
    return f"has {' and '.join(hooks)}, which would be lost; remove them first" if hooks else None


def removal(module: nn.Module) -> str | None:
    """The call that makes a weight plain which is computed at every call; None where none is."""
    if isinstance(module, torch.jit.ScriptModule):
        return None
    if parametrize.is_parametrized(module):
        computed = ", ".join(module.parametrizations)  # type: ignore[arg-type]
        call = f"torch.nn.utils.parametrize.remove_parametrizations(layer, {computed.split(', ')[0]!r})"
        return f"has parametrizations of its {computed}; make it plain with {call}"
    for hook in module._forward_pre_hooks.values():
        for made_by, (what, call) in _COMPUTED.items():
            if isinstance(hook, made_by):
                name = getattr(hook, "name", None) or getattr(hook, "_tensor_name", "weight")
                return f"has its {name} computed by {what}; make it plain with {call}(layer, {name!r})"
    return None


def _parameter_rejection(module: nn.Module) -> str | None:
    parameters = dict(module.named_parameters(recurse=False))
    unknown = [
        name
        for named in (parameters, dict(module.named_buffers(recurse=False)), dict(module.named_children()))
        for name in named
        if name not in ("weight", "bias")
    ]
    if unknown or "weight" not in parameters:
        return f"has other parts than a weight and a bias ({', '.join(unknown) or 'no weight'})"
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            return "is lazy and has no weights yet; run the module once on its inputs, which makes them"
        if type(parameter) is not nn.Parameter:
            return f"its {name} is of type {type(parameter).__name__}, not a plain parameter"
        if parameter.is_meta:
            return f"its {name} has no values yet (device meta); load them first"
        if parameter.dtype not in BITS:
            return f"its {name} is of type {parameter.dtype}, which is not decomposed"
    return None


def adapter_for(module: nn.Module) -> LayerAdapter:
    """The adapter of a module that is a layer."""
    adapter = adapter_of(module)
    assert adapter is not None, "Bug: a module that is no layer was taken for one"
    return adapter


def geometry(module: nn.Module) -> ConvGeometry | None:
    """The shape of a layer; None where the module does not tell."""
    try:
        return adapter_for(module).geometry(module)
    except (AttributeError, TypeError, ValueError):
        return None


def values(parameter: Tensor) -> Array:
    """A parameter's values as float32, or float64 where it is that."""
    wide = parameter.dtype == torch.float64
    found: Array = parameter.detach().to("cpu", torch.float64 if wide else torch.float32).contiguous().numpy()
    return np.array(found)


def bias_of(module: nn.Module) -> nn.Parameter | None:
    """The bias of a layer; None where it has none."""
    bias = getattr(module, "bias", None)
    return bias if isinstance(bias, nn.Parameter) else None


def stack_like(module: nn.Module, convs: tuple[FactorConv, ...]) -> nn.Sequential:
    """Plain modules that compute a stack, with everything else as in `module`."""
    made = [_like(module, conv) for conv in convs]
    return nn.Sequential(*made).train(module.training)


def fresh_stack(module: nn.Module, chain: Sequence[ConvGeometry], *, bias: bool) -> nn.Sequential:
    """The same modules with weights as PyTorch draws them for new ones, to load a state into.

    Args:
        module: the layer that they stand for.
        chain: shapes of the stack.
        bias: whether the last has one.
    """
    last = len(chain) - 1
    zeros = [
        FactorConv(one, np.zeros(one.weight_shape), np.zeros(one.c_out) if bias and i == last else None)
        for i, one in enumerate(chain)
    ]
    stack = stack_like(module, tuple(zeros))
    for new in stack:
        new.reset_parameters()  # type: ignore[operator]
    return stack


def _like(module: nn.Module, conv: FactorConv) -> nn.Module:
    shape, weight, bias = conv.geometry, module.weight, bias_of(module)
    assert isinstance(weight, Tensor), "Bug: a module without a plain weight was not rejected"
    # On the meta device nothing is drawn, so that the caller's random state stays.
    options = {"bias": conv.bias is not None, "device": "meta", "dtype": weight.dtype}
    new = plain(shape.layer_type).make(shape, adapter_for(module).settings(module), **options)
    new.weight = _as_parameter(shape.semantics.stored(conv.weight, shape), weight)
    if conv.bias is not None:
        new.bias = _as_parameter(conv.bias, weight if bias is None else bias)
    return new


def _as_parameter(array: Array, like: Tensor) -> nn.Parameter:
    tensor = torch.from_numpy(np.array(array)).to(like.device, like.dtype)  # a copy of its own
    if not bool(torch.isfinite(tensor).all()):
        raise ModelError(
            f"a factor's value {np.abs(array).max():.4g} is too large for {like.dtype}; "
            "convert the module to float32 first"
        )
    layout = _CHANNELS_LAST.get(like.dim()) if tensor.dim() == like.dim() else None
    if layout is not None and like.is_contiguous(memory_format=layout) and not like.is_contiguous():
        tensor = tensor.contiguous(memory_format=layout)
    return nn.Parameter(tensor, like.requires_grad)
