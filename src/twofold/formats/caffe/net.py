"""A Caffe net definition as Caffe itself would see it: one list of typed layers, whatever the file's age.

V0 and V1 layers become V2, legacy `input` fields become an Input layer, and layers that the phase rules
exclude are gone. Values are read-only; to change a net, edit its text (`prototxt.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import FormatError, ModelError
from .fields import Fields, Value
from .upgrade import fold_v0_padding, upgrade_v0, upgrade_v1
from .variants import unknown_parts

if TYPE_CHECKING:
    from .prototxt import Document
    from .tree import Message

__all__ = ["Fields", "LayerSpec", "NetDefinition", "Value", "read_net"]


#: Beginning of the parts that say how data is prepared.
_FEEDING = "transform_param."


@dataclass(frozen=True)
class LayerSpec:
    """One layer of a net.

    Attributes:
        name: its name; weights are found by it.
        type: V2 type name, as "Convolution".
        bottoms: names of the input blobs.
        tops: names of the output blobs; one that is also a bottom is computed in place.
        fields: the whole layer message as LayerParameter, e.g. `fields.message("convolution_param")`.
        index: position of the layer's text among all layers of the file, -1 for one made from legacy `input`.
        where: place of the layer's text, as "net.prototxt:12:7"; "" where it has none.
        unknown: what its text gives that nobody here knows, as "convolution_param.pad_type: SAME".
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    fields: Fields
    index: int = -1
    where: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def known_type(self) -> str:
        """Its type where it computes what layers of the type do; "" where `unknown` may change that.

        How data is read does not matter: the layer is fed.
        """
        return "" if any(not part.startswith(_FEEDING) for part in self.unknown) else self.type

    @property
    def variant(self) -> str:
        """Its type in sentences, with what is not known of it."""
        return f"{self.type} with {', '.join(self.unknown)}" if self.unknown else self.type

    @property
    def label(self) -> str:
        """What messages call it: where it stands, and its name."""
        return f"{self.where}: layer {self.name!r}" if self.where else f"layer {self.name!r}"


@dataclass(frozen=True)
class NetDefinition:
    """A net: its layers in order, for one phase.

    Attributes:
        name: the net's name.
        phase: "TRAIN" or "TEST".
        layers: the layers of this phase, an Input layer first where the file uses legacy `input` fields.
    """

    name: str
    phase: str
    layers: tuple[LayerSpec, ...]

    def layer(self, name: str) -> LayerSpec:
        """The first layer of that name.

        Raises:
            ModelError: there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(one.name for one in self.layers)
        raise ModelError(f"the net has no layer {name!r}; it has {known}")


def read_net(
    document: Document, phase: str = "TEST", level: int = 0, stages: Iterable[str] = ()
) -> NetDefinition:
    """Read a net definition as Caffe opens it.

    Args:
        document: the parsed prototxt, a NetParameter.
        phase: "TEST" or "TRAIN"; overrides the file's own `state`, as Caffe does.
        level: overrides the file's own `state`, too.
        stages: in addition to those of the file's own `state`.

    Raises:
        FormatError: V1 and V2 layers mixed, a layer with both include and exclude, an unknown old layer type.
        ModelError: a bottom that no layer before it produces, or a top that two layers produce.
    """
    root = document.root.to_fields()
    specs = read_layers(document)
    state = _State(phase, level, {*root.message("state").texts("stage"), *stages})
    net = NetDefinition(
        root.text("name"),
        phase,
        (
            *_legacy_input(root, document.path),
            *(spec for spec in specs if state.keeps(spec)),
        ),
    )
    _check_blobs(net)
    return net


def read_layers(document: Document) -> list[LayerSpec]:
    """Every layer of a file, whatever the phase; without the Input layer that legacy fields mean.

    Raises:
        FormatError: V1 and V2 layers mixed, an unknown old layer type.
    """
    places = [_where(document, message) for message in layer_messages(document)]
    messages = layer_messages(document)
    upgraded = enumerate(_upgraded(document, places))
    return [
        _specify(layer, index, places[index], messages[index])
        for index, layer in upgraded
        if layer is not None
    ]


def layer_messages(document: Document) -> list[Message]:
    """The text of every layer of a net, in the file's order; `LayerSpec.index` counts these."""
    return [
        message
        for field in document.root.fields
        if field.name in ("layer", "layers")
        for message in field.messages
    ]


def _where(document: Document, message: Message) -> str:
    line, column = document.line_column(message.span[0])
    return f"{document.path}:{line}:{column}"


def _upgraded(document: Document, places: Sequence[str]) -> list[Fields | None]:
    """Every layer as LayerParameter; None for V0 padding layers, which have become part of the next one."""
    root = document.root.to_fields()
    if root.has("layer") and root.has("layers"):
        firsts = {field.name: field for field in reversed(document.root.fields)}
        line, column = document.line_column(firsts["layers"].span[0])
        other, _ = document.line_column(firsts["layer"].span[0])
        raise FormatError(
            f"{document.path}:{line}:{column}: here is a 'layers' entry (V1), and in line {other} a 'layer' "
            "entry (V2); Caffe rejects to load both in one file; rewrite the older ones"
        )
    if root.has("layer"):
        return list(root.messages("layer"))
    old = root.messages("layers")
    if not any(layer.has("layer") for layer in old):
        return [upgrade_v1(layer) for layer in old]
    return fold_v0_padding([upgrade_v0(*one) for one in zip(old, places, strict=True)], places)


def _specify(layer: Fields, index: int, where: str, text: Message) -> LayerSpec:
    if layer.text("type") == "BatchNorm" and len(layer.all("param")) == 3:
        # Old nets froze the statistics by three lr_mult: 0; Caffe drops these, since it never trains them.
        layer = Fields(layer.type, {key: given for key, given in layer.values.items() if key != "param"})
    name, type_ = layer.text("name"), layer.text("type")
    unknown = unknown_parts(text, type_)
    return LayerSpec(name, type_, layer.texts("bottom"), layer.texts("top"), layer, index, where, unknown)


def _legacy_input(root: Fields, path: str) -> tuple[LayerSpec, ...]:
    """The Input layer that Caffe makes of the fields `input`, `input_shape` and `input_dim`."""
    tops = root.texts("input")
    if not tops:
        return ()
    shapes: Sequence[Value] = root.all("input_shape")
    dims = root.integers("input_dim")
    if not shapes and dims:
        shapes = [Fields("BlobShape", {"dim": dims[4 * i : 4 * i + 4]}) for i in range(len(dims) // 4)]
    fields = Fields(
        "LayerParameter",
        {
            "name": ["input"],
            "type": ["Input"],
            "top": list(tops),
            "input_param": [Fields("InputParameter", {"shape": list(shapes)})],
        },
    )
    return (LayerSpec("input", "Input", (), tops, fields, where=path),)


@dataclass(frozen=True)
class _State:
    phase: str
    level: int
    stages: set[str]

    def meets(self, rule: Fields) -> bool:
        return (
            (not rule.has("phase") or rule.text("phase") == self.phase)
            and (not rule.has("min_level") or self.level >= rule.integer("min_level"))
            and (not rule.has("max_level") or self.level <= rule.integer("max_level"))
            and self.stages.issuperset(rule.texts("stage"))
            and self.stages.isdisjoint(rule.texts("not_stage"))
        )

    def keeps(self, layer: LayerSpec) -> bool:
        include, exclude = layer.fields.messages("include"), layer.fields.messages("exclude")
        if include and exclude:
            raise FormatError(f"{layer.label} has both include and exclude rules; Caffe allows one of them")
        if include:
            return any(self.meets(rule) for rule in include)
        return not any(self.meets(rule) for rule in exclude)


def _check_blobs(net: NetDefinition) -> None:
    produced: dict[str, str] = {}
    for layer in net.layers:
        if not layer.type:
            raise ModelError(f"{layer.label} has no type; add one")
        for i, bottom in enumerate(layer.bottoms):
            if bottom not in produced:
                raise ModelError(
                    f"{layer.label} reads blob {bottom!r} (bottom {i}), which no layer "
                    f"before it produces in phase {net.phase}; check its spelling and the include rules"
                )
        for i, top in enumerate(layer.tops):
            in_place = i < len(layer.bottoms) and layer.bottoms[i] == top
            if top in produced and not in_place:
                raise ModelError(
                    f"{layer.label} produces blob {top!r}, which layer {produced[top]!r} "
                    f"produces already in phase {net.phase}; rename one"
                )
            if in_place and layer.type == "AbsVal":
                raise ModelError(f"{layer.label} (AbsVal) cannot work in place; rename its top {top!r}")
            produced[top] = layer.name
