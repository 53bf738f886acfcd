"""What a convolution module says: its shape, what stands in the way of replacing it, and new ones like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...conv import Array, ConvGeometry, FactorConv, Size
from ...errors import ModelError

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d

#: The modules that are replaced, by number of axes.
PLAIN: dict[int, type[Conv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
#: Types of weights -> significant bits of their values.
BITS = {torch.float32: 24, torch.float64: 53, torch.float16: 11, torch.bfloat16: 8}

#: Methods that say what a module computes.
_CALLS = ("forward", "_conv_forward", "__call__")
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: Attributes of a module that hold its hooks.
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
#: Layouts that keep the channels of a pixel together, by number of a weight's axes.
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution of any kind."""
    if isinstance(module, (*PLAIN.values(), *_TRANSPOSED)):
        return True
    kind = type(module)
    return ".quantized" in kind.__module__ and kind.__name__.startswith("Conv")


def refusal(module: nn.Module) -> str | None:
    """Why a convolution cannot be replaced, whatever its shape; None where it can."""
    kind = type(module).__name__
    if isinstance(module, _TRANSPOSED):
        return "a transposed convolution; these are not decomposed"
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return f"quantized ({kind}); decompose first, then quantize"
    if parametrize.is_parametrized(module):
        return "has parametrizations; make them plain with torch.nn.utils.parametrize.remove_parametrizations"
    plain = PLAIN[_axes(module)]
    own = [name for name in _CALLS if getattr(type(module), name) is not getattr(plain, name)]
    if own or "forward" in vars(module):
        return f"a subclass with a forward of its own ({kind})"
    reason = _parameter_refusal(module)
    if reason is not None:
        return reason
    hooks = [name.strip("_").replace("_", " ") for name in _HOOKS if getattr(module, name, None)]
    return f"has {' and '.join(hooks)}, which would be lost; remove them first" if hooks else None


def _parameter_refusal(module: Conv) -> str | None:
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


def _axes(module: Conv) -> int:
    return next(axes for axes, plain in PLAIN.items() if isinstance(module, plain))


def geometry(module: nn.Module) -> ConvGeometry | None:
    """The shape of a convolution; None where the module does not tell."""
    try:
        kernel, stride, dilation = (_sizes(module, name) for name in ("kernel_size", "stride", "dilation"))
        c_out, c_in, groups = (int(getattr(module, n)) for n in ("out_channels", "in_channels", "groups"))
        return ConvGeometry(c_out, c_in, kernel, stride, _pads(module), dilation, groups)
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


def stack_like(module: Conv, convs: tuple[FactorConv, ...]) -> nn.Sequential:
    """Plain convolutions that compute a stack, with everything else as in `module`.

    Padding modes other than zeros split by axis as zeros do: what is padded along an axis are whole lines of
    the first convolution's output, which it computes like any others from the lines of its input.
    """
    made = [_like(module, conv) for conv in convs]
    return nn.Sequential(*made).train(module.training)


def _like(module: Conv, conv: FactorConv) -> Conv:
    shape = conv.geometry
    padding: Any = "same" if module.padding == "same" else tuple(before for before, _ in shape.pad)
    make: Callable[..., Conv] = PLAIN[len(shape.kernel)]
    # On the meta device nothing is drawn, so that the caller's random state stays.
    new = make(
        shape.c_in,
        shape.c_out,
        shape.kernel,
        shape.stride,
        padding,
        shape.dilation,
        shape.groups,
        bias=conv.bias is not None,
        padding_mode=module.padding_mode,
        device="meta",
        dtype=module.weight.dtype,
    )
    new.weight = _as_parameter(conv.weight, module.weight)
    if conv.bias is not None:
        new.bias = _as_parameter(conv.bias, module.weight if module.bias is None else module.bias)
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
