"""What runners in PyTorch share: gradients of randomly projected outputs by values inside, by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def runtime_text(device: torch.device) -> str:
    """See `Runner.runtime`."""
    return "PyTorch" if device.type == "cpu" else f"PyTorch on {device}"


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
