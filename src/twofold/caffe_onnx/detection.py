"""What turns features into boxes: PriorBox becomes constants; what follows is left to the caller."""

from __future__ import annotations

import torch

from .registry import LEFT_OUT, register
from .site import Site, Value

LEFT_OUT.add(
    "ONNX has no operator for it; decode and suppress boxes behind the graph", "DetectionOutput",
    "DetectionEvaluate",
)  # fmt: skip
LEFT_OUT.add(
    "it measures and is no part of inference", "Accuracy", "ContrastiveLoss", "EuclideanLoss", "HingeLoss",
    "InfogainLoss", "MultiBoxLoss", "MultinomialLogisticLoss", "SigmoidCrossEntropyLoss", "SmoothL1Loss",
    "SoftmaxWithLoss",
)  # fmt: skip
LEFT_OUT.add("it only swallows or writes its input", "Silence", "HDF5Output")


@register("PriorBox")
def prior_box(site: Site) -> Value:
    """The boxes, which depend on the sizes of the inputs alone."""
    with torch.no_grad():
        boxes = site.module(*(torch.zeros(shape) for shape in site.shapes))
    assert isinstance(boxes, torch.Tensor)
    return site.constant("boxes", boxes.numpy())
