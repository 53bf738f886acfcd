"""BatchNorm, LRN, MVN and SSD's Normalize."""

from __future__ import annotations

import numpy as np

from ..caffe_torch.normalization import BatchNorm
from ..errors import ModelError
from .pooling import average
from .registry import register
from .site import Site, Value


@register("BatchNorm")
def batch_norm(site: Site) -> Value:
    """BatchNormalization by the stored statistics; scale and shift are a layer of their own, or NVCaffe's.

    Raises:
        ModelError: the layer normalises by the statistics of each batch.
    """
    layer, shape = site.module, site.shapes[0]
    assert isinstance(layer, BatchNorm)
    if layer.use_stored is False:
        raise ModelError(
            f"{site.spec.label} normalises by the statistics of each batch (use_global_stats: false), which "
            "an ONNX graph cannot; set use_global_stats: true"
        )
    mean, variance = (tensor.detach().numpy() for tensor in layer.statistics())
    images = site.bottoms[0] if len(shape) > 1 else site.reshaped(site.bottoms[0], (*shape, 1))
    value = site.node(
        "BatchNormalization", images,
        site.parameter(3) if layer.scaled else site.constant("scale", np.ones_like(mean)),
        site.parameter(4) if layer.scaled else site.constant("shift", np.zeros_like(mean)),
        site.constant("mean", mean),
        site.constant("variance", variance), epsilon=layer.eps,
    )  # fmt: skip
    return value if len(shape) > 1 else site.reshaped(value, shape)


@register("LRN")
def lrn(site: Site) -> Value:
    """Across channels the same operator; within each, an average over a padded square."""
    param = site.spec.fields.message("lrn_param")
    size, (alpha, beta, k) = param.integer("local_size"), (param.number(n) for n in ("alpha", "beta", "k"))
    x = site.bottoms[0]
    if param.text("norm_region") == "ACROSS_CHANNELS":
        return site.node("LRN", x, size=size, alpha=alpha, beta=beta, bias=k)
    pad = (size - 1) // 2
    mean = average(
        site, site.node("Mul", x, x), site.shapes[0][2:], (size, size), (1, 1), (pad, pad),
        site.shapes[0][2:],
    )  # fmt: skip
    inner = site.node("Mul", mean, site.constant("alpha", alpha))
    inner = site.node("Add", inner, site.constant("one", 1))
    return site.node("Mul", x, site.node("Pow", inner, site.constant("power", -beta)))


@register("MVN")
def mvn(site: Site) -> Value:
    """Subtract the mean of each channel, or image, and divide by the standard deviation plus eps."""
    param = site.spec.fields.message("mvn_param")
    axes = range(1 if param.flag("across_channels") else 2, len(site.shapes[0]))
    x = site.bottoms[0]
    centred = site.node("Sub", x, site.node("ReduceMean", x, axes=axes))
    if not param.flag("normalize_variance"):
        return centred
    variance = site.node("ReduceMean", site.node("Mul", centred, centred), axes=axes)
    deviation = site.node("Add", site.node("Sqrt", variance), site.constant("eps", param.number("eps")))
    return site.node("Div", centred, deviation)


@register("Normalize")
def normalize(site: Site) -> Value:
    """Divide by the root of the sum of squares over channels, or over the whole image; multiply by scale."""
    param, dims, x = site.spec.fields.message("norm_param"), len(site.shapes[0]), site.bottoms[0]
    axes = range(1, dims) if param.flag("across_spatial") else (1,)
    squares = site.node("ReduceSum", site.node("Mul", x, x), site.integers("axes", axes))
    norm = site.node("Sqrt", site.node("Add", squares, site.constant("eps", param.number("eps"))))
    scale = site.parameter(0, (site.module.blobs[0].numel(), *(1,) * (dims - 2)))
    return site.node("Mul", site.node("Div", x, norm), scale)
