"""BN of SegNet, PSPNet and TSN; see `caffe_torch.bn` for what its forks compute."""

from __future__ import annotations

import numpy as np

from ..caffe_torch.bn import SegNetBN, StoredBN
from ..conv import Size
from ..errors import ModelError
from .registry import register
from .site import Site, Value


@register("BN")
def bn(site: Site) -> Value:
    """BatchNormalization by the stored statistics; SegNet's INFERENCE a product and a sum.

    Raises:
        ModelError: the layer normalises by the statistics of each batch.
    """
    layer, dims = site.module, len(site.shapes[0])
    if isinstance(layer, SegNetBN) and not layer.learns:
        scale, shift = (site.parameter(index, _spread(site, 1, dims)) for index in (0, 1))
        return site.node("Add", site.node("Mul", site.bottoms[0], scale), shift)
    if not isinstance(layer, StoredBN) or not layer.uses_stored:
        raise ModelError(
            f"{site.spec.label} normalises by the statistics of each batch, which an ONNX graph cannot; "
            "merge them into its scale and shift (bn_mode: INFERENCE), or set moving_average: true"
        )
    blobs = (blob.detach().double().flatten().numpy() for blob in layer.blobs)
    slope, bias, mean, variance = blobs
    # One product and one sum, which runtimes fold into the convolution before.
    factor = slope / np.sqrt(variance + layer.eps)
    shape = _spread(site, layer.axis, dims)
    value = site.node("Mul", site.bottoms[0], site.constant("factor", factor.reshape(shape)))
    return site.node("Add", value, site.constant("offset", (bias - mean * factor).reshape(shape)))


def _spread(site: Site, axis: int, dims: int) -> Size:
    """A value per place of an axis, as a shape that fits a blob of `dims` axes."""
    return tuple(site.shapes[0][axis] if place == axis else 1 for place in range(dims))
