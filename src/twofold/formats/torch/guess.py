"""Synthetic inputs for modules that came without any, to try what a forward does with its layers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .convolution import geometry
from .layer_types import adapter_of

#: Sizes of images that forwards take, the usual first: any size is taken by most, one of these by the rest.
_SIZES = (64, 224, 32, 28, 256)
#: Tokens of a text, or vectors of a sequence.
_LENGTH = 16


def guesses(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that a forward of one argument may take, by the shape of its first layer."""
    if _required(module) != 1:
        return
    like = next((one for one in module.parameters() if one.is_floating_point()), None)
    first = next((one for one in module.modules() if isinstance(one, nn.Embedding) or adapter_of(one)), None)
    if first is None or like is None or like.is_meta:
        return
    generator = torch.Generator().manual_seed(0)
    for shape in _shapes(module, first):
        if isinstance(first, nn.Embedding):
            yield torch.zeros(shape, dtype=torch.int64, device=like.device)
        else:
            yield torch.randn(shape, generator=generator).to(like.device, like.dtype)


def _shapes(module: nn.Module, first: nn.Module) -> Iterator[tuple[int, ...]]:
    if isinstance(first, nn.Embedding):
        yield (1, _LENGTH)
        return
    found = geometry(first)
    if found is None:
        return
    if not found.semantics.spatial:
        yield (1, found.c_in)
        yield (1, _LENGTH, found.c_in)
        return
    axes = len(found.kernel)
    told = _told(module)
    if told is not None and len(told) == axes + 1:
        yield (1, *told)
    for size in _SIZES:
        yield (1, found.c_in, *((_LENGTH, size, size)[-axes:] if axes > 1 else (4 * size,)))


def _told(module: nn.Module) -> tuple[int, ...] | None:
    """The shape of an image that timm's models name, (C, H, W)."""
    for name in ("pretrained_cfg", "default_cfg"):
        config: Any = getattr(module, name, None)
        shape = config.get("input_size") if isinstance(config, dict) else None
        if isinstance(shape, (tuple, list)):
            return tuple(int(size) for size in shape)
    return None


def _required(module: nn.Module) -> int:
    """Number of arguments that a forward must have."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return 0
    return sum(one.kind in kinds and one.default is one.empty for one in parameters)
