"""What a layer's module says: its shape, what stands in the way of replacing it, and new ones like it.

Layers are convolutions, transposed ones, and linear ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...conv import Array, ConvGeometry, FactorConv, Kind, Size
from ...errors import ModelError
from ..layout import stored
from .compute import linear_images

#: The modules that are replaced, by kind and number of axes.
PLAIN: dict[tuple[Kind, int], type[nn.Module]] = {
    ("convolution", 1): nn.Conv1d, ("convolution", 2): nn.Conv2d, ("convolution", 3): nn.Conv3d,
    ("transposed", 1): nn.ConvTranspose1d, ("transposed", 2): nn.ConvTranspose2d,
    ("transposed", 3): nn.ConvTranspose3d, ("linear", 1): nn.Linear,
}  # fmt: skip
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
#: Layouts that keep the channels of a pixel together, by number of a weight's axes.
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a layer of any kind."""
    if _plain(module) is not None:
        return True
    kind = type(module)
    return ".quantized" in kind.__module__ and kind.__name__.startswith(("Conv", "Linear"))


def _plain(module: nn.Module) -> type[nn.Module] | None:
    """The one of `PLAIN` that a module is, or whose subclass it is."""
    return next((plain for plain in PLAIN.values() if isinstance(module, plain)), None)


def refusal(module: nn.Module) -> str | None:
    """Why a layer cannot be replaced, whatever its shape; None where it can."""
    kind = type(module).__name__
    plain = _plain(module)
    if plain is None:
        return f"quantized ({kind}); decompose first, then quantize"
    if parametrize.is_parametrized(module):
        return "has parametrizations; make them plain with torch.nn.utils.parametrize.remove_parametrizations"
    own = [name for name in _CALLS if getattr(type(module), name, None) is not getattr(plain, name, None)]
    if own or "forward" in vars(module):
        return f"a subclass with a forward of its own ({kind})"
    reason = _parameter_refusal(module)
    if reason is not None:
        return reason
    hooks = [name.strip("_").replace("_", " ") for name in _HOOKS if getattr(module, name, None)]
    return f"has {' and '.join(hooks)}, which would be lost; remove them first" if hooks else None


def _parameter_refusal(module: nn.Module) -> str | None:
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
        if type(parameter) is not nn.Parameter:
            return f"its {name} is of type {type(parameter).__name__}, not a plain parameter"
        if parameter.is_meta:
            return f"its {name} has no values yet (device meta); load them first"
        if parameter.dtype not in BITS:
            return f"its {name} is of type {parameter.dtype}, which is not decomposed"
    return None


def geometry(module: nn.Module) -> ConvGeometry | None:
    """The shape of a layer; None where the module does not tell."""
    try:
        if hasattr(module, "in_features"):
            return ConvGeometry.linear(int(module.out_features), int(module.in_features))  # type: ignore[arg-type]
        kind: Kind = "transposed" if getattr(module, "transposed", False) else "convolution"
        more = _sizes(module, "output_padding") if kind == "transposed" else ()
        kernel, stride, dilation = (_sizes(module, name) for name in ("kernel_size", "stride", "dilation"))
        c_out, c_in, groups = (int(getattr(module, n)) for n in ("out_channels", "in_channels", "groups"))
        return ConvGeometry(c_out, c_in, kernel, stride, _pads(module), dilation, groups, kind, more)
    except (AttributeError, TypeError, ValueError):
        return None


def _sizes(module: nn.Module, name: str) -> Size:
    return tuple(int(size) for size in getattr(module, name))


def _pads(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Pads (before, after) per axis; for "same" what torch adds, the odd one behind."""
    kernel, dilation = _sizes(module, "kernel_size"), _sizes(module, "dilation")
    if module.padding == "valid":
        return ((0, 0),) * len(kernel)
    if module.padding == "same":
        needed = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((n // 2, n - n // 2) for n in needed)
    return tuple((pad, pad) for pad in _sizes(module, "padding"))


def values(parameter: Tensor) -> Array:
    """A parameter's values as float32, or float64 where it is that."""
    wide = parameter.dtype == torch.float64
    found: Array = parameter.detach().to("cpu", torch.float64 if wide else torch.float32).contiguous().numpy()
    return np.array(found)


def as_images(module: nn.Module, tensor: Tensor) -> Tensor:
    """What a layer is given, or gives, as (N, C, *size)."""
    if isinstance(module, nn.Linear):
        return linear_images(tensor)
    return tensor if tensor.dim() == module.weight.dim() else tensor[None]  # type: ignore[operator]


def input_size(module: nn.Module, tensor: Tensor, batch: int) -> Size:
    """Spatial size of a layer's input; of a linear layer the positions per sample.

    Args:
        module: the layer.
        tensor: what it is given.
        batch: number of samples in it; which axis they are on does not matter.
    """
    if isinstance(module, nn.Linear) or not hasattr(module, "kernel_size"):
        return (-(-(tensor.numel() // tensor.shape[-1]) // max(batch, 1)),)
    return tuple(tensor.shape[-len(module.kernel_size) :])  # type: ignore[arg-type]


def stack_like(module: nn.Module, convs: tuple[FactorConv, ...]) -> nn.Sequential:
    """Plain modules that compute a stack, with everything else as in `module`.

    Padding modes other than zeros split by axis as zeros do: what is padded along an axis are whole lines of
    the first convolution's output, which it computes like any others from the lines of its input.
    """
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
    shape = conv.geometry
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor), "Bug: a module without a plain weight was not refused"
    window: dict[str, Any] = {}
    if shape.kind != "linear":
        same = module.padding == "same"
        window = {
            "kernel_size": shape.kernel, "stride": shape.stride, "dilation": shape.dilation,
            "groups": shape.groups, "padding_mode": module.padding_mode,
            "padding": "same" if same else tuple(before for before, _ in shape.pad),
        }  # fmt: skip
    if shape.kind == "transposed":
        window["output_padding"] = shape.output_padding
    make: Callable[..., nn.Module] = PLAIN[shape.kind, len(shape.kernel)]
    # On the meta device nothing is drawn, so that the caller's random state stays.
    new = make(
        shape.c_in, shape.c_out, bias=conv.bias is not None, device="meta", dtype=weight.dtype, **window
    )
    new.weight = _as_parameter(stored(conv.weight, shape), weight)
    if conv.bias is not None:
        new.bias = _as_parameter(conv.bias, bias if isinstance(bias, Tensor) else weight)
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
