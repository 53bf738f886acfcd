"""Operations that only read out what a network has found, by their names in the three worlds.

What they are given is protected instead, since probabilities, indices and boxes hide errors, or jump.
"""

from __future__ import annotations

CAFFE = frozenset(
    [
        "Softmax",
        "Sigmoid",
        "ArgMax",
        "DetectionOutput",
        "Flatten",
        "Reshape",
        "Permute",
        "Squeeze",
        "Transpose",
        "Accuracy",
        "SoftmaxWithLoss",
        "SigmoidCrossEntropyLoss",
        "MultinomialLogisticLoss",
        "InfogainLoss",
        "HingeLoss",
        "EuclideanLoss",
        "SmoothL1Loss",
        "MultiBoxLoss",
        "DetectionEvaluate",
    ]
)
ONNX = frozenset(
    [
        "Softmax",
        "LogSoftmax",
        "Sigmoid",
        "HardSigmoid",
        "Hardmax",
        "ArgMax",
        "ArgMin",
        "TopK",
        "NonMaxSuppression",
        "NonZero",
        "Concat",
        "Flatten",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Cast",
    ]
)
#: Names of PyTorch's functions.
TORCH = frozenset(
    [
        "softmax",
        "log_softmax",
        "sigmoid",
        "hardsigmoid",
        "argmax",
        "argmin",
        "topk",
        "flatten",
        "reshape",
        "view",
        "permute",
        "transpose",
        "squeeze",
        "unsqueeze",
    ]
)
