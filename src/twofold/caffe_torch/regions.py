"""Pooling over regions of interest: ROIPooling and PSROIPooling; what proposes regions cannot be run.

A region is (image, x1, y1, x2, y2) in pixels of the net's input, its ends included.
Source: Fast R-CNN's fork, `roi_pooling_layer.cpp`; R-FCN's, `psroi_pooling_layer.cu`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .layer import Layer, Setup, UnsupportedError
from .registry import REJECTED, register

REJECTED.add(
    "it runs code of a Python module, which is no part of the model; what stands before it is calibrated",
    "Python",
)  # fmt: skip
REJECTED.add(
    "it chooses regions by scores, so that a little error changes which; what stands before it is calibrated",
    "Proposal", "ProposalLayer", "RPNProposal", "ProposalTarget", "AnchorTarget", "BoxAnnotatorOHEM",
)  # fmt: skip

_SMALLEST = 0.1  # side of a position-sensitive region at least, in cells


#: First cell and the one behind the last, of every bin along an axis.
Bins = list[tuple[int, int]]


class _Regions(Layer):
    """What both have in common: a grid of bins over each region."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        if len(setup.spec.bottoms) != 2:
            raise UnsupportedError(
                f"{setup.spec.label} ({setup.spec.type}) has {len(setup.spec.bottoms)} bottoms; features and "
                "regions can be run"
            )

    def _bins(self, region: Tensor, size: torch.Size) -> tuple[Bins, Bins]:
        """Rows and columns of the bins of a region (x1, y1, x2, y2) of a map of `size`."""
        raise NotImplementedError

    def _pooled(self, image: Tensor, rows: Bins, columns: Bins) -> Tensor:
        """One image (C, H, W) over a grid of bins."""
        raise NotImplementedError

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Features (N, C, H, W) and regions (R, 5) to (R, C, bins, bins)."""
        features, regions = bottoms[0], bottoms[1].detach().reshape(-1, 5)
        tops = []
        for region in regions:
            image = int(region[0])
            if not 0 <= image < len(features):
                raise ValueError(f"a region of image {image}; there are {len(features)}")
            tops.append(self._pooled(features[image], *self._bins(region[1:], features.shape[2:])))
        return torch.stack(tops) if tops else features.new_zeros(*self.top_shapes(*bottoms)[0])


def _clipped(start: Tensor, end: Tensor, limit: int) -> Bins:
    """Bins from where they start to where they end, in whole cells that the image has."""
    edges = (edge.clamp(0, limit).to(torch.int64).tolist() for edge in (start.floor(), end.ceil()))
    return list(zip(*edges, strict=True))


def _rounded(value: Tensor) -> Tensor:
    # C rounds halves away from zero, torch to even.
    return (value.abs() + 0.5).floor() * value.sign()


@register("ROIPooling")
class ROIPooling(_Regions):
    """The maximum of each of pooled_h x pooled_w bins, which overlap where they do not divide; 0 if empty."""

    def _bins(self, region: Tensor, size: torch.Size) -> tuple[Bins, Bins]:
        param = self.spec.fields.message("roi_pooling_param")
        x1, y1, x2, y2 = _rounded(region * param.number("spatial_scale"))
        rows, columns = param.integer("pooled_h"), param.integer("pooled_w")
        return self._along(y1, y2, rows, size[0]), self._along(x1, x2, columns, size[1])

    @staticmethod
    def _along(first: Tensor, last: Tensor, count: int, limit: int) -> Bins:
        step = (last - first + 1).clamp(min=1) / count
        place = torch.arange(count, device=first.device)
        return _clipped((place * step).floor() + first, ((place + 1) * step).ceil() + first, limit)

    def _pooled(self, image: Tensor, rows: Bins, columns: Bins) -> Tensor:
        # Over rows first, then over columns: the maximum of a rectangle.
        bands = [_maximum(image[:, a:b], 1) for a, b in rows]
        cells = [[_maximum(band[:, a:b], 1) for a, b in columns] for band in bands]
        pooled = torch.stack([torch.stack(row, 1) for row in cells], 1)
        return torch.where(pooled == float("-inf"), torch.zeros_like(pooled), pooled)


def _maximum(part: Tensor, axis: int) -> Tensor:
    """The maximum along an axis; -inf of nothing."""
    if part.shape[axis]:
        return part.amax(axis)
    return part.new_full((*part.shape[:axis], *part.shape[axis + 1 :]), float("-inf"))


@register("PSROIPooling")
class PSROIPooling(_Regions):
    """The mean of each of group_size^2 bins, bin (i, j) over a channel of its own; 0 if empty."""

    def _bins(self, region: Tensor, size: torch.Size) -> tuple[Bins, Bins]:
        param = self.spec.fields.message("psroi_pooling_param")
        scale, count = param.number("spatial_scale"), param.integer("group_size")
        first, last = _rounded(region[:2]) * scale, (_rounded(region[2:]) + 1) * scale
        step = (last - first).clamp(min=_SMALLEST) / count
        place = torch.arange(count, device=region.device)
        columns, rows = (
            _clipped(place * step[i] + first[i], (place + 1) * step[i] + first[i], size[1 - i])
            for i in (0, 1)
        )
        return rows, columns

    def _pooled(self, image: Tensor, rows: Bins, columns: Bins) -> Tensor:
        maps = image.reshape(-1, len(rows), len(columns), *image.shape[1:])
        cells = [
            [_mean(maps[:, i, j, a:b, c:d]) for j, (c, d) in enumerate(columns)]
            for i, (a, b) in enumerate(rows)
        ]
        return torch.stack([torch.stack(row, 1) for row in cells], 1)


def _mean(part: Tensor) -> Tensor:
    """The mean of planes (D, h, w); 0 of nothing."""
    return part.mean((1, 2)) if part[0].numel() else part.new_zeros(len(part))
