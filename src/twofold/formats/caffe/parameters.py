"""Shapes of the parameter blobs of layers that are not convolutions, and whether the weights fit them.

Only types whose blobs are the same in every fork are here. BatchNorm is not: forks store three, four or five
blobs. Source: the `LayerSetUp` methods of BVLC Caffe 1.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from ...conv import Size
from ...errors import ModelError
from .net import LayerSpec, NetDefinition
from .shapes import walk_shapes
from .weights import Blob, WeightsFile

#: From a layer and the shapes of its bottoms to the shapes of its blobs.
Rule = Callable[[LayerSpec, Sequence[Size]], list[Size]]


def _inner_product(layer: LayerSpec, bottoms: Sequence[Size]) -> list[Size]:
    param = layer.fields.message("inner_product_param")
    axis, outputs = param.integer("axis"), param.integer("num_output")
    inputs = math.prod(bottoms[0][axis:])
    weight = (inputs, outputs) if param.flag("transpose") else (outputs, inputs)
    return [weight, (outputs,)] if param.flag("bias_term") else [weight]


def _embed(layer: LayerSpec, bottoms: Sequence[Size]) -> list[Size]:
    param = layer.fields.message("embed_param")
    outputs = param.integer("num_output")
    weight = (param.integer("input_dim"), outputs)
    return [weight, (outputs,)] if param.flag("bias_term") else [weight]


def _scale(layer: LayerSpec, bottoms: Sequence[Size]) -> list[Size]:
    param = layer.fields.message("scale_param")
    factor = bottoms[1] if len(bottoms) > 1 else _covered(layer, "scale_param", bottoms[0])
    return [factor] * ((len(bottoms) == 1) + param.flag("bias_term"))


def _bias(layer: LayerSpec, bottoms: Sequence[Size]) -> list[Size]:
    return [] if len(bottoms) > 1 else [_covered(layer, "bias_param", bottoms[0])]


def _covered(layer: LayerSpec, name: str, shape: Size) -> Size:
    """The axes of `shape` that a Scale or Bias layer's blob covers."""
    param = layer.fields.message(name)
    axis, count = param.integer("axis"), param.integer("num_axes")
    axis += len(shape) if axis < 0 else 0
    return shape[axis:] if count == -1 else shape[axis : axis + count]


def _prelu(layer: LayerSpec, bottoms: Sequence[Size]) -> list[Size]:
    return [() if layer.fields.message("prelu_param").flag("channel_shared") else bottoms[0][1:2]]


_RULES: dict[str, Rule] = {
    "InnerProduct": _inner_product,
    "Embed": _embed,
    "Scale": _scale,
    "Bias": _bias,
    "PReLU": _prelu,
}


def check_parameters(
    nets: Iterable[NetDefinition], weights: WeightsFile, path: str, inputs: Mapping[str, Size]
) -> None:
    """Check what the weights hold for the layers of a net that are not convolutions.

    Args:
        nets: the net in each phase.
        weights: its weights.
        path: name of the definition, for messages.
        inputs: shapes of inputs that replace what the definition says.

    Raises:
        ModelError: a layer needs other arrays than the file has.
        FormatError: an array is damaged.
    """
    for net in nets:
        weights.check({layer.name for layer in net.layers})
        for layer, (bottoms, _) in zip(net.layers, walk_shapes(net, inputs), strict=True):
            known = tuple(shape for shape in bottoms if shape is not None)
            if layer.known_type in _RULES and known and len(known) == len(bottoms):
                wanted = _RULES[layer.known_type](layer, known)
                for entry in weights.entries(layer.name):
                    check_fit(layer.name, entry.blobs, wanted, path, weights)


def check_fit(
    name: str, blobs: Sequence[Blob], wanted: Sequence[Size], path: str, weights: WeightsFile
) -> None:
    """Compare the arrays of a layer with what its definition needs; numbers and shapes must be equal.

    Raises:
        ModelError: they differ; says which layer and which shapes.
    """
    if len(blobs) == len(wanted) and all(b.fits(shape) for b, shape in zip(blobs, wanted, strict=True)):
        return
    raise ModelError(
        f"layer {name!r}: {weights.path} has arrays of shape {_shapes([blob.shape for blob in blobs])}, "
        f"but {path} needs {_shapes(wanted)}; they do not belong together"
    )


def _shapes(shapes: Sequence[Size]) -> str:
    listed = ["x".join(map(str, shape)) or "scalar" for shape in shapes]
    return " and ".join(listed) or "(none)"
