"""What runners in PyTorch share: their name, and gradients of randomly projected outputs by values inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


def runtime_text(device: torch.device | None) -> str:
    """See `Runner.runtime`; None for the CPU."""
    return "PyTorch" if device is None else f"PyTorch on {device.type}"


@contextmanager
def recurrent(module: nn.Module) -> Iterator[None]:
    """Within the context gradients go through LSTMs and GRUs in evaluation, which cuDNN refuses."""
    if not any(isinstance(one, nn.RNNBase) for one in module.modules()):
        yield
        return
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


def output_gradients(
    outputs: Sequence[Tensor], inside: Sequence[Tensor], generator: np.random.Generator
) -> tuple[Tensor, ...]:
    """Gradient of randomly projected outputs by each value inside.

    Args:
        outputs: the protected outputs.
        inside: values that they may depend on.
        generator: draws the directions.
    """
    # What comes from constants has no gradient.
    values = [value for value in outputs if value.requires_grad]
    directions = [_direction(value.detach(), generator) for value in values]
    asked = [value for value in inside if value.requires_grad] if values else []
    found = torch.autograd.grad(values, asked, directions, allow_unused=True) if asked else ()
    by_value = dict(zip(map(id, asked), found, strict=True))
    gradients = [by_value.get(id(value)) for value in inside]
    return tuple(
        torch.zeros_like(value) if gradient is None else gradient
        for value, gradient in zip(inside, gradients, strict=True)
    )


def _direction(value: Tensor, generator: np.random.Generator) -> Tensor:
    """A random direction in an output's space, scaled so that all outputs count the same."""
    drawn = torch.from_numpy(generator.standard_normal(tuple(value.shape), np.float32))
    drawn = drawn.to(value.device, value.dtype)
    norm = float((value - value.mean()).norm())
    return drawn / norm if norm else torch.zeros_like(value)
