"""Layers without bottoms: constants. Inputs are inputs of the graph."""

from __future__ import annotations

import torch

from ..errors import ModelError
from .registry import register
from .site import Site, Value


@register("Parameter")
def parameter(site: Site) -> Value:
    """The learned blob."""
    return site.parameter(0)


@register("DummyData")
def dummy_data(site: Site) -> tuple[Value, ...]:
    """Constant blobs; those that are drawn anew in every pass are none.

    Raises:
        ModelError: a filler that draws.
    """
    fillers = site.spec.fields.message("dummy_data_param").messages("data_filler")
    drawn = [filler_type for filler in fillers if (filler_type := filler.text("type")) != "constant"]
    if drawn:
        raise ModelError(
            f"{site.spec.label} draws its values anew in every pass (filler {drawn[0]!r}), which an ONNX "
            "graph cannot; make it an Input"
        )
    with torch.no_grad():
        tops = site.module()
    return tuple(site.constant(name, top.numpy()) for name, top in zip(site.spec.tops, tops, strict=True))
