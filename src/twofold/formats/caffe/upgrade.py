"""Old nets in today's terms: V0 and V1 layer messages become LayerParameter messages, field by field.

Caffe converts old nets in memory when it loads them; the same conversion here lets everything else know only
one type of layer. Source of the tables: BVLC Caffe 1.0, `upgrade_proto.cpp` and `caffe.proto`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import FormatError, ModelError
from .fields import Fields, Value
from .schema import MESSAGES

#: V1's enum -> V2's type name
V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
}

#: The same for the enums of forks, whose numbers are their own.
FORK_V1_TYPES = {
    "BN": "BN",
    "CONVOLUTION3D": "Convolution3D",
    "INTERP": "Interp",
    "POOLING3D": "Pooling3D",
    "PRELU": "PReLU",
    "PYTHON": "Python",
    "RESHAPE": "Reshape",
    "ROI_POOLING": "ROIPooling",
    "SMOOTH_L1_LOSS": "SmoothL1Loss",
    "UNPOOLING": "Unpooling",
    "UPSAMPLE": "Upsample",
}


def v1_type(type_: str) -> str:
    """V1's name of a type.

    Raises:
        ModelError: it has none.
    """
    found = next((name for name, own in V1_TYPES.items() if own == type_), None)
    if found is None:
        raise ModelError(f"files of this age have no layers of the type {type_!r}; upgrade the file first")
    return found


#: V0's type string -> V2's type name
V0_TYPES = {
    "accuracy": "Accuracy",
    "bnll": "BNLL",
    "concat": "Concat",
    "conv": "Convolution",
    "data": "Data",
    "dropout": "Dropout",
    "euclidean_loss": "EuclideanLoss",
    "flatten": "Flatten",
    "hdf5_data": "HDF5Data",
    "hdf5_output": "HDF5Output",
    "im2col": "Im2col",
    "images": "ImageData",
    "infogain_loss": "InfogainLoss",
    "innerproduct": "InnerProduct",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MultinomialLogisticLoss",
    "padding": "Padding",  # not a layer of its own: `fold_v0_padding` moves it into the next one
    "pool": "Pooling",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "softmax_loss": "SoftmaxWithLoss",
    "split": "Split",
    "tanh": "TanH",
    "window_data": "WindowData",
}

_SOURCES = {
    "data": "data_param",
    "hdf5_data": "hdf5_data_param",
    "images": "image_data_param",
    "window_data": "window_data_param",
}
_CONV_AND_POOL = {"conv": "convolution_param", "pool": "pooling_param"}
_CONV_AND_IP = {"conv": "convolution_param", "innerproduct": "inner_product_param"}

#: V0's flat field -> (the field's new name, V0 type -> the parameter message it moved to)
_V0_FIELDS: dict[str, tuple[str, dict[str, str]]] = {
    "num_output": ("num_output", _CONV_AND_IP),
    "biasterm": ("bias_term", _CONV_AND_IP),
    "weight_filler": ("weight_filler", _CONV_AND_IP),
    "bias_filler": ("bias_filler", _CONV_AND_IP),
    "pad": ("pad", {**_CONV_AND_POOL, "padding": "convolution_param"}),
    "kernelsize": ("kernel_size", _CONV_AND_POOL),
    "group": ("group", {"conv": "convolution_param"}),
    "stride": ("stride", _CONV_AND_POOL),
    "pool": ("pool", {"pool": "pooling_param"}),
    "dropout_ratio": ("dropout_ratio", {"dropout": "dropout_param"}),
    "local_size": ("local_size", {"lrn": "lrn_param"}),
    "alpha": ("alpha", {"lrn": "lrn_param"}),
    "beta": ("beta", {"lrn": "lrn_param"}),
    "k": ("k", {"lrn": "lrn_param"}),
    "source": ("source", {**_SOURCES, "infogain_loss": "infogain_loss_param"}),
    "batchsize": ("batch_size", _SOURCES),
    "rand_skip": ("rand_skip", {"data": "data_param", "images": "image_data_param"}),
    "shuffle_images": ("shuffle", {"images": "image_data_param"}),
    "new_height": ("new_height", {"images": "image_data_param"}),
    "new_width": ("new_width", {"images": "image_data_param"}),
    "concat_dim": ("concat_dim", {"concat": "concat_param"}),
    "det_fg_threshold": ("fg_threshold", {"window_data": "window_data_param"}),
    "det_bg_threshold": ("bg_threshold", {"window_data": "window_data_param"}),
    "det_fg_fraction": ("fg_fraction", {"window_data": "window_data_param"}),
    "det_context_pad": ("context_pad", {"window_data": "window_data_param"}),
    "det_crop_mode": ("crop_mode", {"window_data": "window_data_param"}),
}
_V0_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}

#: Parameters of V1's data layers that later moved to `transform_param`.
_MOVED_TO_TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")
_V1_DATA_PARAMS = ("data_param", "image_data_param", "window_data_param")

#: V1 fields without a namesake of the same meaning in V2
_V1_ONLY = ("type", "param", "blobs_lr", "weight_decay", "blob_share_mode", "layer")


def upgrade_v1(layer: Fields) -> Fields:
    """The LayerParameter that a V1LayerParameter means."""
    values = {
        name: given
        for name, given in layer.values.items()
        if name not in _V1_ONLY and name in MESSAGES["LayerParameter"]
    }
    if layer.has("type"):
        layer_type = layer.text("type")
        # A fork's own type keeps its name.
        values["type"] = [V1_TYPES.get(layer_type) or FORK_V1_TYPES.get(layer_type, layer_type)]
    params = _param_specs(
        name=layer.all("param"),
        share_mode=layer.all("blob_share_mode"),
        lr_mult=layer.all("blobs_lr"),
        decay_mult=layer.all("weight_decay"),
    )
    if params:
        values["param"] = params
    _move_to_transform(values)
    return Fields("LayerParameter", values)


def _param_specs(**columns: Sequence[Value]) -> list[Value]:
    """ParamSpec messages from parallel lists, which may differ in length."""
    count = max(len(column) for column in columns.values())
    return [
        Fields("ParamSpec", {key: [column[i]] for key, column in columns.items() if i < len(column)})
        for i in range(count)
    ]


def _move_to_transform(values: dict[str, Sequence[Value]]) -> None:
    for param in _V1_DATA_PARAMS:
        given = values.get(param)
        if not given or not isinstance(given[-1], Fields):
            continue
        old = dict(given[-1].values)
        moved = {key: old.pop(key) for key in _MOVED_TO_TRANSFORM if key in old}
        if moved:
            transform = values.get("transform_param", (Fields("TransformationParameter"),))[-1]
            assert isinstance(transform, Fields)
            values["transform_param"] = [Fields("TransformationParameter", {**transform.values, **moved})]
            values[param] = [Fields(given[-1].type, old)]


def upgrade_v0(connection: Fields, place: str) -> Fields:
    """The LayerParameter that a V0 layer means: a V1LayerParameter holding bottoms, tops and `layer`.

    Args:
        connection: the V1LayerParameter.
        place: file, line and column, for messages.

    Raises:
        FormatError: an unknown V0 type.
    """
    v0 = connection.message("layer")
    layer_type = v0.text("type")
    if layer_type not in V0_TYPES:
        known = ", ".join(sorted(V0_TYPES))
        raise FormatError(
            f"{place}: layer {v0.text('name')!r}: unknown V0 layer type {layer_type!r}; Caffe knows {known}"
        )
    values: dict[str, Sequence[Value]] = {
        key: given for key, given in connection.values.items() if key in ("bottom", "top")
    }
    values["name"] = [v0.text("name")]
    values["type"] = [V0_TYPES[layer_type]]
    params = _param_specs(lr_mult=v0.all("blobs_lr"), decay_mult=v0.all("weight_decay"))
    if params:
        values["param"] = params
    moved: dict[str, dict[str, Sequence[Value]]] = {}
    for old, (new, homes) in _V0_FIELDS.items():
        if v0.has(old) and layer_type in homes:
            moved.setdefault(homes[layer_type], {})[new] = v0.all(old)
    transform = {new: v0.all(old) for old, new in _V0_TRANSFORM.items() if v0.has(old)}
    if transform:
        moved["transform_param"] = transform
    for name, content in moved.items():
        values[name] = [Fields(MESSAGES["LayerParameter"][name].type_name, content)]
    return Fields("LayerParameter", values)


def fold_v0_padding(layers: Sequence[Fields], places: Sequence[str]) -> list[Fields | None]:
    """Move V0's padding layers into the convolution or pooling that follows; None stands where one was.

    Args:
        layers: all layers, upgraded.
        places: file, line and column of each, for messages.

    Raises:
        FormatError: a padding layer feeds something that cannot pad.
    """
    padded: dict[str, Fields] = {}
    result: list[Fields | None] = []
    for layer, place in zip(layers, places, strict=True):
        if layer.text("type") == "Padding":
            if (len(layer.texts("bottom")), len(layer.texts("top"))) != (1, 1):
                raise FormatError(
                    f"{place}: layer {layer.text('name')!r}: a V0 padding layer has one bottom and one top"
                )
            padded[layer.texts("top")[0]] = layer
            result.append(None)
            continue
        source = next((padded[name] for name in layer.texts("bottom") if name in padded), None)
        for top in layer.texts("top"):
            padded.pop(top, None)
        result.append(layer if source is None else _pad(layer, source, place))
    return result


def _pad(layer: Fields, padding: Fields, place: str) -> Fields:
    params = {"Convolution": "convolution_param", "Pooling": "pooling_param"}
    param = params.get(layer.text("type"))
    if param is None or len(layer.texts("bottom")) != 1:
        raise FormatError(
            f"{place}: layer {layer.text('name')!r} ({layer.text('type')}) takes a V0 padding layer as "
            "input; only a convolution or pooling with one input can"
        )
    own = layer.message(param)
    pad = padding.message("convolution_param").all("pad")
    own = Fields(own.type, {**own.values, "pad": pad})
    return Fields("LayerParameter", {**layer.values, "bottom": padding.all("bottom"), param: [own]})
