"""Finding the convolutions of a Caffe net: their text, shape and weights, and what stands in the way.

Layers that share one weight, and layers of one name that the phases share out, are one convolution with
several uses: they are changed together or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...conv import Array, ConvGeometry, ConvLayer, Size, Skipped
from ...errors import ModelError, shape_option
from ...layer_types import LAYER_TYPES
from .emit import rejection
from .layer_types import LayerAdapter, adapter_of
from .net import LayerSpec, NetDefinition, layer_messages, read_layers, read_net
from .parameters import check_fit, check_parameters
from .prototxt import Document
from .shapes import sources_of_unknown, walk_shapes
from .tree import Message
from .weights import Blob, WeightsFile


@dataclass(frozen=True)
class Use:
    """One convolution layer of the text.

    Attributes:
        spec: the layer.
        adapter: what is known of its type.
        message: its text.
        input_shape: shape of its input, None where it is not known.
        geometry: its shape; None where its input channels are not known.
        phases: those in which it exists.
        unknown_by: the layer for which the shape of its input is not known, None where it is.
    """

    spec: LayerSpec
    adapter: LayerAdapter
    message: Message
    input_shape: Size | None
    geometry: ConvGeometry | None
    phases: frozenset[str]
    unknown_by: LayerSpec | None = None

    @property
    def input_size(self) -> Size | None:
        """Spatial size of the input; of a fully connected layer its positions."""
        taken = None if self.input_shape is None else self.adapter.taken(self.spec, self.input_shape)
        return None if taken is None else taken[1]

    @property
    def biased(self) -> bool:
        """Whether the layer has a bias."""
        return self.adapter.parameters(self.spec).flag("bias_term")


@dataclass(frozen=True)
class Group:
    """All uses of one weight.

    Attributes:
        uses: in the file's order; the first owns the weight.
        tied: another layer that shares one of their blobs, but not as they do among themselves; "" if none.
    """

    uses: tuple[Use, ...]
    tied: str = ""

    @property
    def name(self) -> str:
        """Name of the layer that owns the weight."""
        return self.uses[0].spec.name

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its layers, each once."""
        return tuple(dict.fromkeys(use.spec.name for use in self.uses))


def open_phases(document: Document) -> list[NetDefinition]:
    """The net as it is for testing and for training, as far as it can be opened; testing first.

    Raises:
        FormatError: see `read_net`.
        ModelError: it can be opened in neither phase; the error is that of testing.
    """
    nets, failure = [], None
    for phase in ("TEST", "TRAIN"):
        try:
            nets.append(read_net(document, phase))
        except ModelError as error:
            failure = failure or error
    if not nets and failure is not None:
        raise failure
    return nets


def find_groups(
    document: Document, weights: WeightsFile | None, inputs: Mapping[str, Size]
) -> tuple[Group, ...]:
    """All convolutions of a file, with their uses.

    Raises:
        ModelError: a layer whose parameters do not fit its input, or a use of unknown inputs.
    """
    nets = open_phases(document)
    known = {name for net in nets for layer in net.layers if not layer.bottoms for name in layer.tops}
    for name in inputs:
        if name not in known:
            raise ModelError(
                f"{document.path}: the net has no input {name!r}; it has {', '.join(sorted(known))}"
            )
    shapes: dict[int, Size | None] = {}
    unknown: dict[int, LayerSpec] = {}
    phases: dict[int, set[str]] = {}
    if weights is not None:
        inputs = {**_read_channels(nets, weights), **inputs}
        check_parameters(nets, weights, document.path, inputs)
    for net in nets:
        unknown = {**sources_of_unknown(net, inputs), **unknown}
        for layer, (bottoms, _) in zip(net.layers, walk_shapes(net, inputs), strict=True):
            phases.setdefault(layer.index, set()).add(net.phase)
            if bottoms and shapes.get(layer.index) is None:
                shapes[layer.index] = bottoms[0]
    messages, specs = layer_messages(document), read_layers(document)
    groups: dict[tuple[str, ...], list[Use]] = {}
    for spec in specs:
        adapter = adapter_of(spec.type)
        if adapter is not None:
            shape = shapes.get(spec.index)
            shaped = _geometry(spec, adapter, shape, weights)
            use = Use(
                spec, adapter, messages[spec.index], shape, shaped, frozenset(phases.get(spec.index, ())),
                unknown.get(spec.index),
            )  # fmt: skip
            groups.setdefault(_key(spec, adapter), []).append(use)
    owners = _blob_users(specs)
    return tuple(Group(tuple(uses), _tied(uses, owners)) for uses in groups.values())


def _blob_users(specs: Sequence[LayerSpec]) -> dict[str, list[tuple[LayerSpec, int]]]:
    """For every name of a shared parameter: the layers that use it, and as which of their blobs."""
    users: dict[str, list[tuple[LayerSpec, int]]] = {}
    for spec in specs:
        for index, param in enumerate(spec.fields.messages("param")):
            if param.text("name"):
                users.setdefault(param.text("name"), []).append((spec, index))
    return users


def _tied(uses: Sequence[Use], users: Mapping[str, Sequence[tuple[LayerSpec, int]]]) -> str:
    """A layer outside the group that shares a blob with it, "" if there is none."""
    inside = {use.spec.index for use in uses}
    for use in uses:
        for index, param in enumerate(use.spec.fields.messages("param")):
            for spec, other in users.get(param.text("name"), ()):
                if spec.index not in inside or other != index:
                    return spec.name
    return ""


def _read_channels(nets: Sequence[NetDefinition], weights: WeightsFile) -> dict[str, Size]:
    """Shapes of what data layers read, with the channels that the first convolution's weight has.

    A definition does not tell whether a data base holds gray or colour images; the shape rules guess colour.
    """
    found: dict[str, Size] = {}
    for net in nets:
        readers = tuple(layer for layer in net.layers if layer.type in ("Data", "ImageData", "WindowData"))
        tops = {
            name: shape
            for _, shapes in walk_shapes(replace(net, layers=readers))
            for name, shape in shapes.items()
            if shape is not None and len(shape) == 4
        }
        for layer in net.layers:
            entry = weights.layer(layer.name)
            adapter = adapter_of(layer.known_type)
            shape = tops.get(layer.bottoms[0]) if layer.bottoms else None
            if adapter is None or not LAYER_TYPES[adapter.layer_type].spatial or shape is None:
                continue
            if entry is None or not entry.blobs or len(entry.blobs[0].shape) != 4:
                continue
            found[layer.bottoms[0]] = (shape[0], adapter.channels(layer, entry.blobs[0].shape), *shape[2:])
    return found


def _key(spec: LayerSpec, adapter: LayerAdapter) -> tuple[str, ...]:
    params = spec.fields.messages("param")
    shared = params[0].text("name") if params else ""
    return ("param", adapter.param, shared) if shared else ("layer", spec.name)


def _geometry(
    spec: LayerSpec, adapter: LayerAdapter, shape: Size | None, weights: WeightsFile | None
) -> ConvGeometry | None:
    if not spec.known_type:
        return None
    if shape is not None:
        taken = adapter.taken(spec, shape)
        return None if taken is None else adapter.geometry(spec, len(taken[1]), taken[0])
    entry = weights.layer(spec.name) if weights is not None else None
    if entry is None or not entry.blobs:
        return None
    stored = entry.blobs[0].shape
    return adapter.geometry(spec, len(stored) - 2, adapter.channels(spec, stored))


def as_layer(group: Group, document: Document, weights: WeightsFile | None) -> ConvLayer | Skipped:
    """A convolution as planners see it, or why it cannot be one.

    Raises:
        ModelError: its weights do not fit the definition.
        FormatError: its weights are damaged.
    """
    first = group.uses[0]
    shaped = first.geometry
    sizes = tuple(use.input_size for use in group.uses if "TEST" in use.phases) or (first.input_size,)
    known = tuple(size for size in sizes if size is not None)
    known = known if len(known) == len(sizes) else ()
    stored = None
    if shaped is not None and weights is not None:
        stored = _stored(group, document, weights)
    reason = _rejection(group)
    if reason is None and weights is not None:
        reason = _unfilled(group, weights)
    if reason is not None or shaped is None:
        reason = reason or _unknown_channels(first.unknown_by)
        macs = sum(map(shaped.macs, known)) if shaped is not None and known else None
        return Skipped(group.name, reason, shaped, macs, 0 if shaped is None else shaped.params)
    weight, bias = stored or (None, None)
    bits = 11 if weights is not None and _in_half(group, weights) else 24
    return ConvLayer(group.name, shaped, weight, bias, known, group.names[1:], bits)


def _unknown_channels(source: LayerSpec | None) -> str:
    if source is None or not source.bottoms:
        name = source.tops[0] if source is not None else "data"
        return f"its input channels are not known; give the shape of the net's input: {shape_option(name)}"
    return (
        f"its input channels are not known, since it depends on layer {source.name!r} ({source.type}), "
        "which gives blobs of unknown shape"
    )


def _in_half(group: Group, weights: WeightsFile) -> bool:
    """Whether the file stores the group's weight in half precision."""
    entries = [weights.layer(name) for name in group.names]
    return any(e is not None and e.blobs and e.blobs[0].encoding.endswith("float16") for e in entries)


def _unfilled(group: Group, weights: WeightsFile) -> str | None:
    """Why the weights do not tell all that the group holds; None where they do."""
    known = [use for use in group.uses if weights.layer(use.spec.name) is not None]
    # What layers share lies in one memory, so that the entry of any of them fills it.
    filled = {_bias_name(use) for use in known if use.biased} - {""}
    for use in group.uses:
        if use not in known and (not known or (use.biased and _bias_name(use) not in filled)):
            which = (
                "" if use.spec.name == group.name else f"layer {use.spec.name!r}, which shares its weight, "
            )
            return f"{which}has no weights in {weights.path}; Caffe would run it with its filler's values"
    return None


def _bias_name(use: Use) -> str:
    """The name by which its bias is shared, "" where it is not."""
    params = use.spec.fields.messages("param")
    return params[1].text("name") if len(params) > 1 else ""


def _rejection(group: Group) -> str | None:
    first = group.uses[0]
    for use in group.uses:
        if not use.spec.known_type:
            unknown = ", ".join(use.spec.unknown)
            return f"has {unknown}, of which it is not known what it does; it stays as it is"
        reason = use.adapter.rejection(use.spec, use.input_shape) or rejection(use.message)
        if reason is not None:
            return reason
        turned = [one.adapter.turned(one.spec) for one in (use, first)]
        if use.geometry != first.geometry or turned[0] != turned[1]:
            return f"shares its weight with layer {use.spec.name!r}, which has another shape or stride"
    if group.tied:
        return (
            f"layer {group.tied!r} shares its weight or bias in another way than as a use of one convolution"
        )
    for i, use in enumerate(group.uses):
        for other in group.uses[i + 1 :]:
            if use.spec.name == other.spec.name and use.phases & other.phases:
                return "the net has two layers of this name in one phase, so its weights are ambiguous"
    return None


def _stored(group: Group, document: Document, weights: WeightsFile) -> tuple[Array, Array | None] | None:
    """The weight and the owner's bias as the net has them after loading; None where the file has none.

    Caffe copies entry by entry, so of several copies of a shared weight the last one in the file counts.
    """
    entries = [(use, entry) for use in group.uses for entry in weights.entries(use.spec.name)]
    if not entries:
        return None
    for use, entry in entries:
        assert use.geometry is not None
        _check_fit(use, entry.blobs, document, weights)
    order = {id(entry): i for i, entry in enumerate(weights.layers)}
    last = max((entry for _, entry in entries), key=lambda entry: order[id(entry)])
    own = weights.layer(group.name)
    shape = group.uses[0].geometry
    assert shape is not None
    first = group.uses[0]
    weight = first.adapter.weight(first.spec, last.blobs[0].array(), shape)
    bias = own.blobs[1].array().reshape(-1) if own is not None and len(own.blobs) > 1 else None
    return weight, bias


def _check_fit(use: Use, blobs: Sequence[Blob], document: Document, weights: WeightsFile) -> None:
    spec, shaped = use.spec, use.geometry
    assert shaped is not None
    wanted = [use.adapter.stored_shape(spec, shaped)]
    if use.biased:
        wanted.append((shaped.c_out,))
    check_fit(spec.name, blobs, wanted, document.path, weights)
    for blob in blobs:
        blob.check()
