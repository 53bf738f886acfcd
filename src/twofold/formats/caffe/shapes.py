"""Shapes of all blobs of a net, from its definition alone.

A rule per layer type, registered in `rules`; those of forks are in `fork_shapes`. A blob behind a layer of an
unknown type, or behind a data layer whose files are not here, has the shape None; so has everything that
follows from it.
Source: the `Reshape` methods of BVLC Caffe 1.0 and of the SSD branch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from ...conv import Size
from ...errors import ModelError
from . import fork_shapes  # noqa: F401 - registers its rules
from .fields import Fields, axis_of
from .layer_types import adapter_of
from .net import LayerSpec, NetDefinition
from .rules import RULES, Rule, Shape, register
from .window import window

__all__ = [
    "RULES",
    "Rule",
    "Shape",
    "infer_shapes",
    "register",
    "rule_of",
    "sources_of_unknown",
    "walk_shapes",
]

#: What an int counts, as Caffe's Blob::Reshape checks.
_MOST_VALUES = 2**31 - 1
#: Types with a rule that need no bottom.
_SOURCES = frozenset(
    {"Input", "DummyData", "Parameter", "MemoryData", "Data", "ImageData", "WindowData", "Silence"}
)


def rule_of(type_: str) -> Rule | None:
    """The shape rule of a layer type: its own, or that of its adapter, with a top for every bottom."""
    adapter = adapter_of(type_)
    if type_ in RULES or adapter is None:
        return RULES.get(type_)
    return lambda layer, bottoms: [adapter.top(layer, one) for one in bottoms]


def infer_shapes(net: NetDefinition, inputs: Mapping[str, Size] | None = None) -> dict[str, Shape]:
    """Shapes of all blobs as they are after the last layer.

    Args:
        net: the net.
        inputs: shapes of blobs that replace what the net declares, as (N, C, H, W).

    Raises:
        ModelError: a layer whose parameters do not fit its inputs.
    """
    shapes: dict[str, Shape] = {}
    for _, result in walk_shapes(net, inputs):
        shapes.update(result)
    return shapes


def walk_shapes(
    net: NetDefinition, inputs: Mapping[str, Size] | None = None
) -> list[tuple[tuple[Shape, ...], dict[str, Shape]]]:
    """Per layer: the shapes of its bottoms, and the shapes of its tops by name."""
    inputs = inputs or {}
    known: dict[str, Shape] = {}
    walked = []
    for layer in net.layers:
        bottoms = tuple(known[name] for name in layer.bottoms)
        tops = dict(zip(layer.tops, _tops(layer, bottoms), strict=True))
        tops.update(
            {name: tuple(inputs[name]) for name in layer.tops if name in inputs and not layer.bottoms}
        )
        for name, shape in tops.items():
            _check_size(layer, name, shape)
        known.update(tops)
        walked.append((bottoms, tops))
    return walked


def sources_of_unknown(net: NetDefinition, inputs: Mapping[str, Size] | None = None) -> dict[int, LayerSpec]:
    """For each layer with an input of unknown shape, by its index: the layer that is the reason."""
    origin: dict[str, LayerSpec] = {}
    found: dict[int, LayerSpec] = {}
    for layer, (bottoms, tops) in zip(net.layers, walk_shapes(net, inputs), strict=True):
        blamed = [origin[name] for name, shape in zip(layer.bottoms, bottoms, strict=True) if shape is None]
        if blamed:
            found[layer.index] = blamed[0]
        source = blamed[0] if blamed else layer
        origin.update({name: source for name, shape in tops.items() if shape is None})
    return found


def _tops(layer: LayerSpec, bottoms: Sequence[Shape]) -> Sequence[Shape]:
    unknown = (None,) * len(layer.tops)
    apply = rule_of(layer.known_type)
    if apply is None:
        return unknown
    if not bottoms and layer.type not in _SOURCES:
        raise ModelError(f"{layer.label} ({layer.type}): has no bottom; such a layer needs one or more")
    known = [shape for shape in bottoms if shape is not None]
    if len(known) < len(bottoms):
        return unknown
    try:
        shapes = apply(layer, known)
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise ModelError(
            f"{layer.label} ({layer.type}) does not take inputs of shape "
            f"{', '.join(str(list(shape)) for shape in known)}: {_why(layer, error)}"
        ) from error
    # Caffe adds tops of its own to losses and ignores those that it does not know.
    return (*shapes, *unknown)[: len(layer.tops)]


def _why(layer: LayerSpec, error: Exception) -> str:
    """What is wrong with inputs, in words; what Python says of an index tells nobody anything."""
    if isinstance(error, ValueError) and "unpack" not in str(error):
        return str(error)
    return f"a {layer.type} of these parameters needs more axes, or more inputs"


def _check_size(layer: LayerSpec, top: str, shape: Shape) -> None:
    """Reject what Caffe's blobs cannot hold: negative sizes, and more values than an int counts."""
    if shape is not None and (any(size < 0 for size in shape) or math.prod(shape) > _MOST_VALUES):
        raise ModelError(
            f"{layer.label} ({layer.type}): its top {top!r} would have the shape {list(shape)}; sizes are 0 "
            f"or more, and a blob of Caffe holds at most {_MOST_VALUES} values"
        )


def _product(shape: Sequence[int]) -> int:
    return math.prod(shape)


def _axis(axis: int, shape: Size, *, end: bool = False) -> int:
    """A canonical axis index; `end` allows one past the last."""
    return axis_of(axis, len(shape) + end)


def _blob_shape(message: Fields) -> Size:
    return message.integers("dim")


@register(
    "AbsVal", "BNLL", "BatchNorm", "Bias", "Clip", "Dropout", "ELU", "Exp", "LRN", "Log", "MVN", "Normalize",
    "PReLU", "Power", "ReLU", "ReLU6", "Scale", "ShuffleChannel", "Sigmoid", "Softmax", "Split", "Swish",
    "TanH", "Threshold",
)  # fmt: skip
def _same(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    return [bottoms[0]] * len(layer.tops)


@register("Input")
def _input(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    shapes = [_blob_shape(shape) for shape in layer.fields.message("input_param").messages("shape")]
    return _one_or_each(shapes, len(layer.tops))


def _one_or_each(shapes: Sequence[Shape], count: int) -> Sequence[Shape]:
    if not shapes:
        return [None] * count
    return list(shapes) * count if len(shapes) == 1 else shapes


@register("DummyData")
def _dummy(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param = layer.fields.message("dummy_data_param")
    shapes = [_blob_shape(shape) for shape in param.messages("shape")]
    if not shapes:
        columns = [param.integers(name) for name in ("num", "channels", "height", "width")]
        shapes = [tuple(dims) for dims in zip(*columns, strict=True)]
    return _one_or_each(shapes, len(layer.tops))


@register("Parameter")
def _parameter(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    return [_blob_shape(layer.fields.message("parameter_param").message("shape"))]


@register("MemoryData")
def _memory_data(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param = layer.fields.message("memory_data_param")
    dims = tuple(param.integer(name) for name in ("batch_size", "channels", "height", "width"))
    return [dims, dims[:1]]


@register("Data", "ImageData", "WindowData")
def _data(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    # Height and width are known only where every image is cropped or resized; channels only by what Caffe
    # usually reads.
    param = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}[
        layer.type
    ]
    transform = layer.fields.message("transform_param")
    own = layer.fields.message(param)
    crop, batch = transform.integer("crop_size"), own.integer("batch_size")
    size = (crop, crop)
    gray = transform.flag("force_gray")
    if layer.type == "ImageData":
        gray = gray or not own.flag("is_color")
        size = size if crop else (own.integer("new_height"), own.integer("new_width"))
    if not all(size):
        return [None] * len(layer.tops)
    return [(batch, 1 if gray else 3, *size), (batch,)]


@register("Im2col")
def _im2col(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param = layer.fields.message("convolution_param")
    shape = bottoms[0]
    axis = _axis(param.integer("axis"), shape)
    sizes = window(layer, param, len(shape) - axis - 1)
    output = tuple(
        (n + sum(p) - (d * (k - 1) + 1)) // s + 1
        for n, k, s, p, d in zip(
            shape[axis + 1 :], sizes.kernel, sizes.stride, sizes.pad, sizes.dilation, strict=True
        )
    )
    return [(*shape[:axis], shape[axis] * _product(sizes.kernel), *output)]


@register("Pooling")
def _pooling(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param = layer.fields.message("pooling_param")
    shape = bottoms[0]
    if param.flag("global_pooling"):
        return [(*shape[:2], 1, 1)] * len(layer.tops)
    kernel = _pooling_pair(layer, param, "kernel_size", ("kernel_h", "kernel_w"))
    stride = _pooling_pair(layer, param, "stride", ("stride_h", "stride_w"))
    pad = _pooling_pair(layer, param, "pad", ("pad_h", "pad_w"))
    if any(p >= k for p, k in zip(pad, kernel, strict=True)):
        raise ModelError(f"{layer.label}: pad {list(pad)} must be smaller than the kernel {list(kernel)}")
    up = param.text("round_mode") == "CEIL" and param.flag("ceil_mode")
    size = []
    for n, k, s, p in zip(shape[2:], kernel, stride, pad, strict=True):
        steps = n + 2 * p - k
        size.append((-(-steps // s) if up else steps // s) + 1)
    if any(pad):
        # The last window must begin inside the image or its leading pad.
        size = [
            out - 1 if (out - 1) * s >= n + p else out
            for out, n, s, p in zip(size, shape[2:], stride, pad, strict=True)
        ]
    return [(*shape[:2], *size)] * len(layer.tops)


def _pooling_pair(layer: LayerSpec, param: Fields, name: str, pair: tuple[str, str]) -> Size:
    given = [param.has(one) for one in pair]
    if any(given) and (param.has(name) or not all(given)):
        raise ModelError(f"{layer.label}: either {name} or both {pair[0]} and {pair[1]} may be given")
    return tuple(param.integer(one if all(given) else name) for one in pair)


@register("SPP")
def _spp(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    height = layer.fields.message("spp_param").integer("pyramid_height")
    if not 0 < height < 16:
        raise ValueError("a pyramid of no levels, or of more bins than a blob can hold")
    if height == 1:
        return [(*bottoms[0][:2], 1, 1)]  # Caffe flattens only what it joins
    return [(bottoms[0][0], bottoms[0][1] * sum(4**level for level in range(height)))]


@register("Embed")
def _embed(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    return [(*bottoms[0], layer.fields.message("embed_param").integer("num_output"))]


@register("LSTM", "RNN")
def _recurrent(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    outputs = layer.fields.message("recurrent_param").integer("num_output")
    # Behind the outputs of all steps, the states after the last where `expose_hidden` is set.
    return [(*bottoms[0][:2], outputs), *[(1, bottoms[0][1], outputs)] * (len(layer.tops) - 1)]


@register("LSTMUnit")
def _lstm_unit(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    return [bottoms[0]] * 2


@register("Concat")
def _concat(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param = layer.fields.message("concat_param")
    if param.has("axis") and param.has("concat_dim"):
        raise ModelError(f"{layer.label}: either axis or concat_dim may be given, found both; remove one")
    axis = (
        param.integer("concat_dim") if param.has("concat_dim") else _axis(param.integer("axis"), bottoms[0])
    )
    first = bottoms[0]
    if any((s[:axis], s[axis + 1 :]) != (first[:axis], first[axis + 1 :]) for s in bottoms):
        raise ValueError("inputs differ outside the axis")
    return [(*first[:axis], sum(shape[axis] for shape in bottoms), *first[axis + 1 :])]


@register("Slice")
def _slice(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param = layer.fields.message("slice_param")
    shape = bottoms[0]
    axis = param.integer("slice_dim") if param.has("slice_dim") else _axis(param.integer("axis"), shape)
    points = param.integers("slice_point")
    if not points:
        step = shape[axis] // len(layer.tops)
        points = tuple(step * i for i in range(1, len(layer.tops)))
    edges = (0, *points, shape[axis])
    return [(*shape[:axis], b - a, *shape[axis + 1 :]) for a, b in pairwise(edges)]


@register("Eltwise")
def _eltwise(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    if any(shape != bottoms[0] for shape in bottoms):
        raise ValueError("inputs differ in shape")
    param = layer.fields.message("eltwise_param")
    if param.has("coeff") and param.text("operation") != "SUM":
        raise ModelError(
            f"{layer.label}: coefficients are for SUM, here is {param.text('operation')}; remove coeff"
        )
    return [bottoms[0]]


@register("Flatten")
def _flatten(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param, shape = layer.fields.message("flatten_param"), bottoms[0]
    start, end = _axis(param.integer("axis"), shape), _axis(param.integer("end_axis"), shape)
    return [(*shape[:start], _product(shape[start : end + 1]), *shape[end + 1 :])]


@register("Reshape")
def _reshape(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param, shape = layer.fields.message("reshape_param"), bottoms[0]
    start = _axis(param.integer("axis"), shape, end=True)
    count = param.integer("num_axes")
    end = len(shape) if count == -1 else start + count
    dims = list(_blob_shape(param.message("shape")))
    dims = [shape[start + i] if dim == 0 else dim for i, dim in enumerate(dims)]
    if -1 in dims:
        known = _product([dim for dim in (*shape[:start], *dims, *shape[end:]) if dim != -1])
        dims[dims.index(-1)] = _product(shape) // known
    result = (*shape[:start], *dims, *shape[end:])
    if _product(result) != _product(shape):
        raise ValueError("the number of values changes")
    return [result]


@register("Permute")
def _permute(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    order = list(layer.fields.message("permute_param").integers("order"))
    order += [axis for axis in range(len(bottoms[0])) if axis not in order]
    return [tuple(bottoms[0][axis] for axis in order)]


@register("Crop")
def _crop(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    shape, like = bottoms
    axis = _axis(layer.fields.message("crop_param").integer("axis"), shape)
    return [(*shape[:axis], *like[axis:])]


@register("Tile")
def _tile(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param, shape = layer.fields.message("tile_param"), bottoms[0]
    axis = _axis(param.integer("axis"), shape)
    return [(*shape[:axis], shape[axis] * param.integer("tiles"), *shape[axis + 1 :])]


@register("Reduction")
def _reduction(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    return [bottoms[0][: _axis(layer.fields.message("reduction_param").integer("axis"), bottoms[0])]]


@register("ArgMax")
def _argmax(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param, shape = layer.fields.message("argmax_param"), bottoms[0]
    k = param.integer("top_k")
    if param.has("axis"):
        axis = _axis(param.integer("axis"), shape)
        return [(*shape[:axis], k, *shape[axis + 1 :])]
    return [(shape[0], 2 if param.flag("out_max_val") else 1, k, *(1,) * max(0, len(shape) - 3))]


@register("PriorBox")
def _prior_box(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param = layer.fields.message("prior_box_param")
    ratios = [1.0]
    for ratio in param.numbers("aspect_ratio"):
        if all(abs(ratio - one) > 1e-6 for one in ratios):
            ratios += [ratio, 1 / ratio] if param.flag("flip") else [ratio]
    count = len(ratios) * len(param.all("min_size")) + len(param.all("max_size"))
    height, width = bottoms[0][2:4]
    return [(1, 2, height * width * count * 4)]


@register("BatchReindex")
def _batch_reindex(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    return [(bottoms[1][0], *bottoms[0][1:])]


@register("Silence")
def _nothing(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    return []


@register("Accuracy")
def _accuracy(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    axis = _axis(layer.fields.message("accuracy_param").integer("axis"), bottoms[0])
    return [(), (bottoms[0][axis],)]


@register(
    "ContrastiveLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss", "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss", "SoftmaxWithLoss",
)  # fmt: skip
def _loss(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    return [(), bottoms[0]]
