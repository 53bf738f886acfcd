"""What a user writes, checked by `mypy --strict` with the rest: public functions say what they give."""

from __future__ import annotations

import torch
from torch import nn

import twofold


def halved(net: nn.Sequential, samples: torch.Tensor) -> nn.Module:
    """A net at half of its MACs."""
    result = twofold.decompose(net, macs="50%", data=samples)
    ratio: float = result.plan.totals.macs_ratio
    if ratio > 0.5:
        raise ValueError(f"{result!r} is no half")
    error = twofold.compare(net, result, data=samples, threads=1).outputs[0].error
    if error is None or error > 1:
        raise ValueError(f"the outputs of {result.model!r} are not those of the net")
    module: nn.Module = result.model.module
    return module
