"""InnerProduct and Embed."""

from __future__ import annotations

from ..formats.caffe.fields import axis_of
from .registry import register
from .site import Site, Value


@register("InnerProduct")
def inner_product(site: Site) -> Value:
    """Gemm over everything from `axis` on."""
    param = site.spec.fields.message("inner_product_param")
    axis = axis_of(param.integer("axis"), len(site.shapes[0]))
    rows = site.bottoms[0] if len(site.shapes[0]) == 2 and axis == 1 else None
    rows = rows or site.node("Flatten", site.bottoms[0], axis=axis)
    parameters = [site.parameter(index) for index in range(len(site.module.blobs))]
    value = site.node("Gemm", rows, *parameters, transB=int(not param.flag("transpose")))
    return value if axis == 1 else site.reshaped(value, site.top_shapes[0])


@register("Embed")
def embed(site: Site) -> Value:
    """Rows of the weight, gathered."""
    rows = site.node("Gather", site.parameter(0), site.node("Cast", site.bottoms[0], to=7))
    return site.node("Add", rows, site.parameter(1)) if len(site.module.blobs) > 1 else rows
