"""Weights in int8, rounded so that a layer's outputs change least, not each weight alone.

With W the weight of a layer, one row per output channel, and M = E[p p^T] the second moment of the patches p
that it sees, rounding to Q changes the outputs by tr((W - Q) M (W - Q)^T) in the mean. Columns are rounded
one after the other; what a column loses is made good, as far as can be, by those that are still to come:

    M^-1 = U^T U, U upper triangular;    W[:, k] -= (W[:, j] - Q[:, j]) U[j, k] / U[j, j]    for k > j.

The columns that see most come first. Scales stay as they are.

Source: Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers",
ICLR 2023, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from onnx.numpy_helper import from_array, to_array

from ..calibration.gather import CalibrationOptions, gather
from ..calibration.inputs import Inputs
from ..calibration.runners.onnx.runner import OnnxRunner
from ..conv import ConvLayer, LayerStatistics
from ..device import product
from ..errors import TwofoldError
from ..formats.onnx.model import OnnxModel
from ..progress import track
from .qdq import QUANTIZED

Matrix = NDArray[np.float64]

#: Largest number of a weight in int8.
_LARGEST = 127
#: What is added to the diagonal of M, as a fraction of its mean: directions that were not seen are not free.
_DAMPING = 0.01
#: Columns whose corrections reach the columns behind them together.
_BLOCK = 128


def round_to_outputs(plain: Path, int8: Path, inputs: Inputs) -> tuple[str, ...]:
    """Round the weights of an int8 model anew.

    Args:
        plain: the model in float32.
        int8: its int8 form, which is exchanged.
        inputs: samples that give the inputs of layers.

    Returns:
        Notes: which layers keep weights whose numbers are rounded one by one, and why.
    """
    try:
        model = OnnxModel.load(plain)
        runner = OnnxRunner(model)
        written = onnx.load(int8)
        weights = {one.name: one for one in written.graph.initializer if one.data_type == TensorProto.INT8}
        names = {
            layer: model.group(layer.name).weight.tensor.name + QUANTIZED
            for layer in model.convolutions()
            if isinstance(layer, ConvLayer)
        }
        layers = runner.reached([layer for layer, name in names.items() if name in weights])
        if not layers:
            return ()
        options = CalibrationOptions(gradients=False)
        seen = dict(gather(runner, layers, inputs.only(runner.inputs), options).layers)
    except TwofoldError as error:
        return (f"weights are rounded one by one, since the inputs of layers are not known: {error}",)
    alone = []
    for layer in track(layers, "rounding weights"):
        statistics = seen.pop(layer.name, None)
        if statistics is None or statistics.covariance is None:
            alone.append(layer.name)
            continue
        use, weight = model.group(layer.name).uses[0], weights[names[layer]]
        scales = use.adapter.canonical(use.node, _scales(written, weight), layer.geometry)
        numbers = use.adapter.stored(use.node, _rounded(layer, scales, statistics), layer.geometry)
        weight.CopyFrom(from_array(numbers.astype(np.int8).reshape(weight.dims), weight.name))
    onnx.save(written, int8)
    if not alone:
        return ()
    return (
        f"{len(alone)} layers are over the memory limit, and their weights are rounded one by one: "
        f"{', '.join(alone[:5])}{' ...' if len(alone) > 5 else ''}",
    )


def _scales(proto: ModelProto, weight: TensorProto) -> NDArray[np.float32]:
    """The scale of every number of a weight."""
    (node, *_) = (node for node in proto.graph.node if node.input and node.input[0] == weight.name)
    (scale,) = (to_array(one) for one in proto.graph.initializer if one.name == node.input[1])
    axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
    if scale.size > 1:
        scale = scale.reshape([-1 if place == axis else 1 for place in range(len(weight.dims))])
    return np.broadcast_to(scale, tuple(weight.dims))


def _rounded(layer: ConvLayer, scales: NDArray[np.float32], seen: LayerStatistics) -> NDArray[np.float32]:
    """The weight of a layer as integers, in its own shape."""
    assert layer.weight is not None, "Bug: a layer without a weight"
    assert seen.covariance is not None, "Bug: no covariance"
    groups, shape = layer.geometry.groups, layer.weight.shape
    rows = [array.reshape(groups, shape[0] // groups, -1) for array in (layer.weight, scales)]
    means = seen.mean.reshape(groups, -1)
    covariances = seen.covariance.reshape(groups, means.shape[1], -1)
    found = [
        round_columns(weight.astype(np.float64), scale.astype(np.float64), cov + np.outer(mean, mean))
        for weight, scale, mean, cov in zip(*rows, means, covariances, strict=True)
    ]
    return np.stack(found).reshape(shape).astype(np.float32)


def round_columns(weight: Matrix, scale: Matrix, moment: Matrix) -> Matrix:
    """Integers from -127 to 127 that stand for a weight with the least change of its outputs.

    Args:
        weight: (C_out, d).
        scale: (C_out, d), positive.
        moment: (d, d), second moment of what the weight is multiplied by.

    Law: the outputs change no more than by rounding each number to the nearest.
    """
    nearest = np.clip(np.rint(weight / scale), -_LARGEST, _LARGEST)
    seen = np.diag(moment)
    if not seen.sum() > 0:
        return nearest
    order = np.argsort(-seen, kind="stable")
    damped = moment[np.ix_(order, order)] + _DAMPING * seen.mean() * np.eye(len(seen))
    # M = R R^T with R upper triangular, from the Cholesky factor of M turned around; U = R^-1.
    upper = np.linalg.inv(np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1])
    left, scales = weight[:, order], scale[:, order]
    numbers = np.empty_like(left)
    for columns in _blocks(left.shape[1]):
        errors = np.empty((len(left), len(columns)))
        for place, j in enumerate(columns):
            numbers[:, j] = np.clip(np.rint(left[:, j] / scales[:, j]), -_LARGEST, _LARGEST)
            errors[:, place] = (left[:, j] - numbers[:, j] * scales[:, j]) / upper[j, j]
            rest = slice(j + 1, columns.stop)
            left[:, rest] -= np.outer(errors[:, place], upper[j, rest])
        left[:, columns.stop :] -= product(errors, upper[columns.start : columns.stop, columns.stop :])
    found = np.empty_like(numbers)
    found[:, order] = numbers
    better = _change(weight - found * scale, moment) < _change(weight - nearest * scale, moment)
    return np.where(better[:, None], found, nearest)


def _change(error: Matrix, moment: Matrix) -> NDArray[np.float64]:
    """Mean square of what an error of the weight does to each output."""
    return np.asarray(np.einsum("ij,ij->i", error @ moment, error))


def _blocks(count: int) -> Iterator[range]:
    for start in range(0, count, _BLOCK):
        yield range(start, min(start + _BLOCK, count))
