"""BatchNorm, LRN, MVN and SSD's Normalize.

Source: BVLC Caffe 1.0, `batch_norm_layer.cpp`, `lrn_layer.cpp`, `mvn_layer.cpp`; Normalize: SSD branch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ModelError
from ..formats.caffe.net import LayerSpec
from .layer import Layer, Operation, Setup, UnsupportedError, constant, filler_or
from .pooling import average
from .registry import register, register_stateless


class Normalization(Layer):
    """A layer that normalises by stored statistics, or by those of the batch.

    Attributes:
        forced: normalise by the batch's statistics without keeping them; see `batch_statistics`.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.forced = False
        self._flaw: UnsupportedError | None = None

    @property
    def uses_stored(self) -> bool:
        """Whether it normalises by stored statistics in its phase."""
        raise NotImplementedError

    @property
    def obstacle(self) -> UnsupportedError | None:
        """A stored variance without a root, where it is to be normalised by."""
        return self._flaw if self.uses_stored and not self.forced else None

    def require(self, variance: Tensor, eps: float) -> None:
        """Take down whether stored variances (C,) have roots.

        Those that training leaves a little below 0 have one, with `eps`; all are 0 before any training.
        """
        bad = (~(variance + eps > 0)).nonzero().flatten()
        self._flaw = None
        if len(bad) and variance.any():
            channel = int(bad[0])
            self._flaw = UnsupportedError(
                f"{self.spec.label} ({self.spec.type}): the variance of channel {channel} is "
                f"{float(variance[channel]):g}, which has no root; repair the weights"
            )

    def stored(self) -> bool:
        """Whether to normalise by stored statistics now.

        Raises:
            UnsupportedError: they cannot be.
        """
        if self.obstacle is not None:
            raise self.obstacle
        return self.uses_stored


@register("BatchNorm")
class BatchNorm(Normalization):
    """(x - mean) / sqrt(variance + eps) per channel; scale and shift are a Scale layer of their own.

    The blobs hold sums over the past that fade by `moving_average_fraction`: mean * f, variance * f and f
    itself. With batch statistics S becomes S * fraction + new, and f becomes f * fraction + 1.

    NVCaffe's has scale and shift in blobs 3 and 4 where the definition says `scale_bias: true`. Blobs 0 and 1
    are then the mean and variance themselves and blob 2 takes no part, as in OpenCV. How NVCaffe's moves its
    statistics is not known here, so that it is not trained by those of batches.
    """

    fixed = True
    mean: Tensor
    variance: Tensor
    factor: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param, bottom = setup.spec.fields.message("batch_norm_param"), setup.bottoms[0]
        self.eps, self.fraction = param.number("eps"), param.number("moving_average_fraction")
        #: True or False where the definition says so, None where the phase decides.
        self.use_stored = param.flag("use_global_stats") if param.has("use_global_stats") else None
        channels = None if bottom is None else (bottom[1] if len(bottom) > 1 else 1,)
        self.scaled = param.flag("scale_bias")
        self._check_count(setup)
        for name, shape in (("mean", channels), ("variance", channels), ("factor", (1,))):
            self.add_blob(setup, name, shape, constant(0))
        if self.scaled:
            self.add_blob(setup, "scale", channels, filler_or(param, "scale_filler", 1.0), fixed=False)
            self.add_blob(setup, "shift", channels, filler_or(param, "bias_filler", 0.0), fixed=False)

    def _check_count(self, setup: Setup) -> None:
        count, needed = len(setup.stored or ()), 5 if self.scaled else 3
        if count in (0, needed):
            return
        hint = ""
        if count == 5:
            hint = "; where they are NVCaffe's, add batch_norm_param { scale_bias: true }"
        raise UnsupportedError(
            f"{setup.spec.label} ({setup.spec.type}): the weights hold {count} blobs, the definition needs "
            f"{needed}{hint}"
        )

    def loaded(self) -> None:
        """See `Layer.loaded`."""
        self.require(self.statistics()[1].double(), self.eps)

    @property
    def uses_stored(self) -> bool:
        """Whether it normalises by stored statistics in its phase."""
        return not self.training if self.use_stored is None else self.use_stored

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Normalise (N, C, ...)."""
        images = bottoms[0] if bottoms[0].dim() > 1 else bottoms[0].reshape(-1, 1)
        count = images.numel() // images.shape[1]
        scale, shift = (self.scale, self.shift) if self.scaled else (None, None)
        if self.forced and count > 1:
            result = functional.batch_norm(images, None, None, scale, shift, training=True, eps=self.eps)
        elif self.stored() or self.forced:
            mean, variance = self.statistics()
            result = functional.batch_norm(images, mean, variance, scale, shift, eps=self.eps)
        else:
            result = self._train(images, count)
        return result.reshape(bottoms[0].shape)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """The stored mean and variance; zeros where the factor is 0, as in an untrained layer."""
        if self.scaled:
            return self.mean, self.variance
        scale = torch.where(self.factor == 0, torch.zeros_like(self.factor), 1 / self.factor)
        return self.mean * scale, self.variance * scale

    def _train(self, images: Tensor, count: int) -> Tensor:
        if self.scaled:
            raise ModelError(
                f"{self.spec.label} is NVCaffe's BatchNorm (scale_bias), which is not trained by the "
                "statistics of batches; set use_global_stats: true"
            )
        # With momentum 1 torch leaves the batch's own mean and unbiased variance, which is what Caffe stores.
        mean, variance = torch.zeros_like(self.mean), torch.zeros_like(self.variance)
        if count > 1:
            result = functional.batch_norm(images, mean, variance, training=True, momentum=1.0, eps=self.eps)
        else:
            mean, result = images.detach().flatten(), images - images.detach()
        with torch.no_grad():
            for blob, new in ((self.mean, mean), (self.variance, variance), (self.factor, 1.0)):
                blob.mul_(self.fraction).add_(new)
        return result


@contextmanager
def batch_statistics(net: nn.Module) -> Iterator[None]:
    """Within the context every BatchNorm and BN of `net` normalises by the batch's own mean and variance.

    The stored statistics stay as they are, and serve where a batch has a single value per channel. Used with
    synthetic inputs: what follows a BatchNorm then has the means and variances of real data, whatever the
    input.
    """
    layers = [module for module in net.modules() if isinstance(module, Normalization)]
    before = [layer.forced for layer in layers]
    for layer in layers:
        layer.forced = True
    try:
        yield
    finally:
        for layer, forced in zip(layers, before, strict=True):
            layer.forced = forced


@register_stateless("LRN")
def lrn(spec: LayerSpec) -> Operation:
    """Divide x by (k + alpha / size * sum of squares)^beta over neighbouring channels, or within each.

    Within channels the sum runs over a padded square and k is 1, whatever the definition says.
    """
    param = spec.fields.message("lrn_param")
    size, (alpha, beta, k) = param.integer("local_size"), (param.number(n) for n in ("alpha", "beta", "k"))
    if size % 2 == 0:
        raise ModelError(f"layer {spec.name!r}: local_size is {size}; Caffe allows odd sizes only")
    if param.text("norm_region") == "ACROSS_CHANNELS":
        return lambda images: functional.local_response_norm(images, size, alpha, beta, k)

    def within(images: Tensor) -> Tensor:
        pad = (size - 1) // 2
        mean = average(images.square(), (size, size), (1, 1), (pad, pad), tuple(images.shape[2:]))
        return images * (1 + alpha * mean).pow(-beta)

    return within


class _Normalized(torch.autograd.Function):
    """MVN of rows: (x - mean) / (deviation + eps).

    Caffe's gradient takes deviation + eps as one number s, the deviation itself: with y = (x - mean) / s it
    is (dy - mean(dy) - y mean(dy y)) / s.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, eps: float) -> Tensor:
        """Normalise (..., values)."""
        centred = rows - rows.mean(-1, keepdim=True)
        deviation = centred.square().mean(-1, keepdim=True).sqrt() + eps
        result = centred / deviation
        ctx.save_for_backward(result, deviation)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient of the rows."""
        (given,), (result, deviation) = gradients, ctx.saved_tensors
        along = (given * result).mean(-1, keepdim=True)
        return (given - given.mean(-1, keepdim=True) - result * along) / deviation, None


@register_stateless("MVN")
def mvn(spec: LayerSpec) -> Operation:
    """Subtract the mean of each channel, or image, and divide by the standard deviation plus eps."""
    param = spec.fields.message("mvn_param")
    lead, eps = 1 if param.flag("across_channels") else 2, param.number("eps")

    def normalize(images: Tensor) -> Tensor:
        rows = images.reshape(*images.shape[:lead], -1)
        if param.flag("normalize_variance"):
            rows = _Normalized.apply(rows, eps)  # type: ignore[no-untyped-call]
        else:
            rows = rows - rows.mean(-1, keepdim=True)
        return rows.reshape(images.shape)

    return normalize


@register("Normalize")
class Normalize(Layer):
    """x * scale / sqrt(sum of squares + eps), summed over channels at each pixel, or over the whole image."""

    scale: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param, bottom = setup.spec.fields.message("norm_param"), setup.bottoms[0]
        self.eps, self.whole = param.number("eps"), param.flag("across_spatial")
        shape = () if param.flag("channel_shared") else None if bottom is None else (bottom[1],)
        self.add_blob(setup, "scale", shape, filler_or(param, "scale_filler", 1.0))

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        images = bottoms[0]
        axes = tuple(range(1, images.dim())) if self.whole else (1,)
        norm = (images.square().sum(axes, keepdim=True) + self.eps).sqrt()
        scale = self.scale.reshape(-1, *(1,) * (images.dim() - 2))
        return images / norm * scale
