"""ROIPooling, for which ONNX has an operator, and PSROIPooling, for which it has none."""

from __future__ import annotations

from ..errors import ModelError
from .registry import register
from .site import Site, Value


@register("ROIPooling")
def roi_pooling(site: Site) -> Value:
    """MaxRoiPool, which rounds as Fast R-CNN does."""
    param = site.spec.fields.message("roi_pooling_param")
    rois = site.bottoms[1]
    if len(site.shapes[1]) != 2:
        rois = site.reshaped(rois, (site.shapes[1][0], 5))
    size = (param.integer("pooled_h"), param.integer("pooled_w"))
    return site.node(
        "MaxRoiPool", site.bottoms[0], rois, pooled_shape=size, spatial_scale=param.number("spatial_scale")
    )


@register("PSROIPooling")
def psroi_pooling(site: Site) -> Value:
    """Nothing.

    Raises:
        ModelError: always.
    """
    raise ModelError(
        f"{site.spec.label} (PSROIPooling): ONNX has no operator for it; take it and what follows out of the "
        "definition"
    )
