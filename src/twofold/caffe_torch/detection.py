"""The layers that turn features into boxes: PriorBox and DetectionOutput of SSD.

A box is (xmin, ymin, xmax, ymax) in units of the image.
Source: SSD branch of Caffe, `prior_box_layer.cpp`, `detection_output_layer.cpp`, `bbox_util.cpp`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelError
from ..formats.caffe.fields import Fields
from .layer import Layer, Setup
from .registry import register

Boxes = NDArray[np.floating]


@register("PriorBox")
class PriorBox(Layer):
    """Boxes around the centre of every cell of a feature map, and their variances.

    Per cell, for each min_size: a square of min_size, one of sqrt(min_size * max_size), then one box per
    aspect ratio other than 1. Sizes are truncated to whole pixels, as Caffe keeps them in integers.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param = setup.spec.fields.message("prior_box_param")
        shapes: list[tuple[float, float]] = []
        minima, maxima = (
            [float(int(size)) for size in param.numbers(name)] for name in ("min_size", "max_size")
        )
        if maxima and len(maxima) != len(minima):
            raise ModelError(
                f"layer {setup.spec.name!r}: {len(maxima)} max_size for {len(minima)} min_size; give one "
                "each, or none"
            )
        for i, size in enumerate(minima):
            shapes.append((size, size))
            if maxima:
                shapes.append((math.sqrt(size * maxima[i]),) * 2)
            shapes += [(size * math.sqrt(r), size / math.sqrt(r)) for r in _ratios(param)]
        #: (boxes per cell, 2): width and height in pixels.
        self.sizes = np.array(shapes).reshape(-1, 2)
        given = param.numbers("variance") or (0.1,)
        self.variances = np.array(given * 4 if len(given) == 1 else given)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Features (N, C, h, w) and the image (N, C, H, W) to (1, 2, h * w * boxes * 4)."""
        param = self.spec.fields.message("prior_box_param")
        cells = tuple(bottoms[0].shape[2:])
        image = _per_axis(param, "img") or tuple(bottoms[1].shape[2:])
        step = _per_axis(param, "step") or tuple(size / cell for size, cell in zip(image, cells, strict=True))
        centre_y, centre_x = (
            (np.arange(count) + param.number("offset")) * length
            for count, length in zip(cells, step, strict=True)
        )
        boxes = np.empty((*cells, len(self.sizes), 4))
        for axis, (centre, total) in enumerate(
            ((centre_x[None, :, None], image[1]), (centre_y[:, None, None], image[0]))
        ):
            half = self.sizes[:, axis] / 2
            boxes[..., axis], boxes[..., axis + 2] = (centre - half) / total, (centre + half) / total
        if param.flag("clip"):
            boxes = boxes.clip(0, 1)
        variances = np.broadcast_to(self.variances, boxes.shape)
        both = np.stack((boxes.reshape(-1), variances.reshape(-1)))[None]
        return torch.from_numpy(both).to(bottoms[0])


def _ratios(param: Fields) -> list[float]:
    """Aspect ratios other than 1, without repeats, each followed by its inverse with `flip`."""
    ratios = [1.0]
    for ratio in param.numbers("aspect_ratio"):
        if all(abs(ratio - one) >= 1e-6 for one in ratios):
            ratios += [ratio, 1 / ratio] if param.flag("flip") else [ratio]
    return [ratio for ratio in ratios if abs(ratio - 1) >= 1e-6]


def _per_axis(param: Fields, name: str) -> tuple[float, ...] | None:
    """(height, width) of `img` or `step`, given as one number or two; None where it is not given, or 0."""
    square = {"img": "img_size", "step": "step"}[name]
    values = tuple(param.number(one if param.has(one) else square) for one in (f"{name}_h", f"{name}_w"))
    return values if all(values) else None


@dataclass(frozen=True)
class _Suppression:
    """Which of overlapping boxes stay.

    Attributes:
        threshold: overlap (intersection over union) above which the box of the lower score goes.
        top_k: only so many boxes of the highest scores take part, all for -1.
        eta: factor by which the threshold falls, while above 0.5, with every box that stays.
        least: scores must be above this one.
    """

    threshold: float
    top_k: int
    eta: float
    least: float

    def keep(self, boxes: Boxes, scores: Boxes) -> list[int]:
        """Indices of the boxes (n, 4) that stay, from the highest score (n,) down."""
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > self.least]
        order = order[: self.top_k] if self.top_k > -1 else order
        kept: list[int] = []
        threshold, ranked = self.threshold, boxes[order]
        areas = _areas(ranked)
        if self.eta >= 1:
            alive = np.ones(len(order), bool)
            for i in range(len(order)):
                if alive[i]:
                    kept.append(i)
                    rest = slice(i + 1, None)
                    alive[rest] &= _overlaps(ranked[i], areas[i], ranked[rest], areas[rest]) <= threshold
            return [int(order[i]) for i in kept]
        for i in range(len(order)):
            if (_overlaps(ranked[i], areas[i], ranked[kept], areas[kept]) <= threshold).all():
                kept.append(i)
                threshold *= self.eta if threshold > 0.5 else 1
        return [int(order[i]) for i in kept]


def _areas(boxes: Boxes) -> Boxes:
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.where((sides < 0).any(1), 0, sides[:, 0] * sides[:, 1])


def _overlaps(box: Boxes, area: Boxes, others: Boxes, areas: Boxes) -> Boxes:
    """Intersection over union of one box (4,) with others (n, 4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0)
    union = area + areas - common
    return np.divide(common, union, out=np.zeros_like(common), where=common > 0)


@register("DetectionOutput")
class DetectionOutput(Layer):
    """What SSD finds: rows (image, class, score, xmin, ymin, xmax, ymax) by image, class and falling score.

    Where nothing is found in any image, one row of -1 with the image's number for each.
    """

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Offsets (N, boxes * 4), scores (N, boxes * classes), priors (1, 2, boxes * 4) to (1, 1, n, 7)."""
        param = self.spec.fields.message("detection_output_param")
        offsets, scores, priors = (bottom.detach().cpu().numpy() for bottom in bottoms[:3])
        images, classes = len(offsets), param.integer("num_classes")
        shared = param.flag("share_location")
        priors = priors.reshape(2, -1, 4)
        boxes = decode(
            offsets.reshape(images, -1, 1 if shared else classes, 4),
            priors[0][:, None],
            None if param.flag("variance_encoded_in_target") else priors[1][:, None],
            param.text("code_type"),
        )
        scores = scores.reshape(images, -1, classes)
        rows = [row for i in range(images) for row in self._image(i, boxes[i], scores[i])]
        if not rows:
            rows = [[i, *(-1,) * 6] for i in range(images)]
        return torch.tensor(np.array(rows), dtype=bottoms[0].dtype, device=bottoms[0].device)[None, None]

    def _image(self, image: int, boxes: Boxes, scores: Boxes) -> list[list[float]]:
        """Rows of one image from boxes (priors, 1 or classes, 4) and scores (priors, classes)."""
        param = self.spec.fields.message("detection_output_param")
        nms = param.message("nms_param")
        suppression = _Suppression(
            nms.number("nms_threshold"),
            nms.integer("top_k") if nms.has("top_k") else -1,
            nms.number("eta"),
            param.number("confidence_threshold") if param.has("confidence_threshold") else -math.inf,
        )
        found: list[tuple[int, int]] = []
        for label in range(scores.shape[1]):
            if label != param.integer("background_label_id"):
                own = boxes[:, label if boxes.shape[1] > 1 else 0]
                found += [(label, index) for index in suppression.keep(own, scores[:, label])]
        limit = param.integer("keep_top_k")
        if -1 < limit < len(found):
            # The best over all classes, in their order by class again: sorting is stable.
            found = sorted(sorted(found, key=lambda f: -scores[f[1], f[0]])[:limit], key=lambda f: f[0])
        return [
            [image, label, scores[index, label], *boxes[index, label if boxes.shape[1] > 1 else 0]]
            for label, index in found
        ]


def decode(offsets: Boxes, priors: Boxes, variances: Boxes | None, code: str) -> Boxes:
    """Boxes from offsets to priors.

    Args:
        offsets: (..., 4).
        priors: boxes (..., 4) that the offsets refer to.
        variances: factors of the offsets (..., 4); None where they are in the offsets already.
        code: CORNER: corners move by offsets; CORNER_SIZE: by offsets in units of the prior's size;
            CENTER_SIZE: the centre moves in units of the prior's size, the size grows by exp(offset).
    """
    scaled = offsets if variances is None else offsets * variances
    if code == "CORNER":
        return priors + scaled
    sides = priors[..., 2:] - priors[..., :2]
    if code == "CORNER_SIZE":
        return priors + scaled * np.concatenate((sides, sides), -1)
    centre = (priors[..., :2] + priors[..., 2:]) / 2 + scaled[..., :2] * sides
    half = np.exp(scaled[..., 2:]) * sides / 2
    return np.concatenate((centre - half, centre + half), -1)
