"""Losses and Accuracy.

Each loss gives one number that is differentiable with respect to its scores; a second top, where the
definition asks for one, is for looking at only. Weights (`loss_weight`) are applied by the net, not here.
Source: BVLC Caffe 1.0, the layers' `.cpp` files and `loss_layer.cpp`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ModelError
from ..formats.caffe.fields import Fields, axis_of
from .layer import Layer, Tops
from .registry import register

#: Smallest probability that SoftmaxWithLoss takes the logarithm of.
_FLT_MIN = torch.finfo(torch.float32).tiny
_LOG_THRESHOLD = 1e-20


class Loss(Layer):
    """A layer whose first top counts in the net's loss."""

    default_loss_weight = 1.0


def normalization(param: Fields, default: str) -> str:
    """FULL, VALID, BATCH_SIZE or NONE; the older `normalize` counts only where `normalization` is missing."""
    if param.has("normalization"):
        return param.text("normalization")
    if param.has("normalize"):
        return "VALID" if param.flag("normalize") else "BATCH_SIZE"
    return default


def divisor(mode: str, valid: Tensor, images: int) -> Tensor:
    """What a sum over places is divided by; at least 1, so that a batch of ignored places gives 0.

    Args:
        mode: see `normalization`.
        valid: which places count, of any shape, bool.
        images: number of images in the batch.
    """
    count = {"FULL": valid.numel(), "BATCH_SIZE": images, "NONE": 1}.get(mode)
    result = valid.sum() if count is None else torch.tensor(count, device=valid.device)
    return result.clamp(min=1)


def _classes_last(scores: Tensor, axis: int) -> tuple[Tensor, int]:
    """Scores as (places, classes), and the number of images: the axes before `axis`."""
    images = scores.flatten(0, axis - 1).shape[0] if axis else 1
    return scores.movedim(axis, -1).flatten(0, -2), images


def _valid(param: Fields, labels: Tensor) -> Tensor:
    if not param.has("ignore_label"):
        return torch.ones_like(labels, dtype=torch.bool)
    return labels != param.integer("ignore_label")


def _clamped_log(log: Tensor, smallest: float) -> Tensor:
    """Logarithms of probabilities not below `smallest`, with the gradient they have without the limit."""
    return log + (log.clamp(min=torch.tensor(smallest).log().item()) - log).detach()


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(Loss):
    """-log of the softmax at the label, summed over places; second top: the softmax."""

    def forward(self, *bottoms: Tensor) -> Tops:
        """Scores (N, C, ...) and labels (N, ...) to a number."""
        param = self.spec.fields.message("loss_param")
        axis = axis_of(self.spec.fields.message("softmax_param").integer("axis"), bottoms[0].dim())
        scores, images = _classes_last(bottoms[0], axis)
        labels = bottoms[1].flatten().to(torch.int64)
        valid = _valid(param, labels)
        logs = _clamped_log(torch.log_softmax(scores, 1), _FLT_MIN)
        picked = logs.gather(1, torch.where(valid, labels, 0)[:, None])[:, 0]
        total = -torch.where(valid, picked, 0).sum()
        loss = total / divisor(normalization(param, "VALID"), valid, images)
        return (loss, torch.softmax(bottoms[0].detach(), axis))


@register("InfogainLoss")
class InfogainLoss(Loss):
    """-sum over classes of H[label, class] * log(softmax); second top: the softmax."""

    def forward(self, *bottoms: Tensor) -> Tops:
        """Scores (N, C, ...), labels (N, ...) and H (1, 1, C, C) to a number."""
        if len(bottoms) < 3:
            raise ModelError(
                f"layer {self.spec.name!r}: its matrix is in a file of its own, which is not read; feed it "
                "as a third bottom"
            )
        param = self.spec.fields.message("loss_param")
        axis = axis_of(self.spec.fields.message("infogain_loss_param").integer("axis"), bottoms[0].dim())
        scores, images = _classes_last(bottoms[0], axis)
        labels = bottoms[1].flatten().to(torch.int64)
        valid = _valid(param, labels)
        logs = _clamped_log(torch.log_softmax(scores, 1), _LOG_THRESHOLD)
        gain = bottoms[2].reshape(scores.shape[1], -1)[torch.where(valid, labels, 0)]
        total = -torch.where(valid, (gain * logs).sum(1), 0).sum()
        loss = total / divisor(normalization(param, "VALID"), valid, images)
        return (loss, torch.softmax(bottoms[0].detach(), axis))


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Loss):
    """Mean of -log of the probability at the label; probabilities are clamped to 1e-20."""

    def forward(self, *bottoms: Tensor) -> Tops:
        """Probabilities (N, C) and labels (N,) to a number."""
        rows, labels = bottoms[0].flatten(1), bottoms[1].flatten().to(torch.int64)
        picked = rows.gather(1, labels[:, None])
        # Below the limit Caffe's gradient is that of the limit, not 0.
        kept = picked + (picked.clamp(min=_LOG_THRESHOLD) - picked).detach()
        return -kept.log().sum() / rows.shape[0]


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """Cross entropy of sigmoid(x) with targets in [0, 1], summed over everything.

    Divided by the batch size unless the definition says otherwise.
    """

    def forward(self, *bottoms: Tensor) -> Tops:
        """Scores and targets of one shape (N, ...) to a number."""
        scores, targets = bottoms
        param = self.spec.fields.message("loss_param")
        # Caffe cuts targets to whole numbers where it compares them with the label that is ignored.
        valid = _valid(param, targets.trunc())
        terms = functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        total = torch.where(valid, terms, 0).sum()
        loss = total / divisor(normalization(param, "BATCH_SIZE"), valid, scores.shape[0])
        return (loss, torch.sigmoid(scores.detach()))


@register("HingeLoss")
class HingeLoss(Loss):
    """Mean over images of max(0, 1 + x), with -x at the label; squared with norm L2."""

    def forward(self, *bottoms: Tensor) -> Tops:
        """Scores (N, C) and labels (N,) to a number."""
        rows = bottoms[0].flatten(1)
        sign = 1 - 2 * functional.one_hot(bottoms[1].flatten().to(torch.int64), rows.shape[1])
        margins = functional.relu(1 + rows * sign)
        squared = self.spec.fields.message("hinge_loss_param").text("norm") == "L2"
        return (margins.square() if squared else margins).sum() / rows.shape[0]


@register("EuclideanLoss")
class EuclideanLoss(Loss):
    """Sum of squared differences over 2 N."""

    def forward(self, *bottoms: Tensor) -> Tops:
        """Two blobs of as many values to a number."""
        return (bottoms[0] - bottoms[1].reshape(bottoms[0].shape)).square().sum() / (2 * bottoms[0].shape[0])


@register("SmoothL1Loss")
class SmoothL1Loss(Loss):
    """(sigma d)^2 / 2 of differences |d| < 1 / sigma^2, else |d| - 0.5 / sigma^2; their sum over N.

    A third bottom multiplies the differences, a fourth what each adds to the loss.
    Source: `smooth_L1_loss_layer.cu` of Fast R-CNN and SSD; sigma and the fourth bottom of Faster R-CNN.
    """

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Two blobs (N, ...) of one shape, and weights of that shape, to a number."""
        beta = self.spec.fields.message("smooth_l1_loss_param").number("sigma") ** -2
        difference = bottoms[0] - bottoms[1].reshape(bottoms[0].shape)
        if len(bottoms) > 2:
            difference = difference * bottoms[2].reshape(difference.shape)
        zeros = torch.zeros_like(difference)
        terms = functional.smooth_l1_loss(difference, zeros, reduction="none", beta=beta)
        if len(bottoms) > 3:
            terms = terms * bottoms[3].reshape(terms.shape)
        return terms.sum() / difference.shape[0]


@register("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """Squared distance of similar pairs, squared lack of distance to the margin of others; over 2 N."""

    def forward(self, *bottoms: Tensor) -> Tops:
        """Features (N, D) twice and similarity (N,) to a number."""
        param = self.spec.fields.message("contrastive_loss_param")
        margin = param.number("margin")
        squared = (bottoms[0] - bottoms[1]).flatten(1).square().sum(1)
        if param.flag("legacy_version"):
            apart = functional.relu(margin - squared)
        else:
            distance = squared.detach().sqrt()
            lack = functional.relu(margin - distance)
            # Caffe's gradient divides by distance + 1e-4, so that it is finite for equal features.
            slope = -lack / (distance + 1e-4)
            apart = lack.square() + slope * (squared - squared.detach())
        similar = bottoms[2].flatten() != 0
        return torch.where(similar, squared, apart).sum() / (2 * bottoms[0].shape[0])


@register("Accuracy")
class Accuracy(Layer):
    """Share of places whose label is among the `top_k` scores, ties counting as wrong; then per class."""

    def forward(self, *bottoms: Tensor) -> Tops:
        """Scores (N, C, ...) and labels (N, ...) to a number, and (C,)."""
        param = self.spec.fields.message("accuracy_param")
        axis = axis_of(param.integer("axis"), bottoms[0].dim())
        scores, _ = _classes_last(bottoms[0].detach(), axis)
        labels = bottoms[1].flatten().to(torch.int64)
        valid = _valid(param, labels)
        scores, labels = scores[valid], labels[valid]
        others = (scores >= scores.gather(1, labels[:, None])).sum(1) - 1
        right = (others < param.integer("top_k")).to(scores.dtype)
        accuracy = right.sum() / max(1, len(labels))
        counts = torch.bincount(labels, minlength=scores.shape[1])
        per_class = torch.zeros_like(scores[:1].sum(0)).scatter_add_(0, labels, right) / counts.clamp(min=1)
        return (accuracy, per_class)
