"""The text of a V0 net as that of a V1 net.

V0 layers have one size for both axes of a window, so that no factor can be written as one. Caffe reads a V0
net by upgrading it to V1 in memory; here the same upgrade is written down. Comments stand before the layer in
which they were.
"""

from __future__ import annotations

from collections.abc import Iterator

from .emit import newline_of, quote
from .fields import Fields, Value
from .net import layer_messages, read_layers
from .prototxt import Document, comments
from .schema import MESSAGES, FieldDef
from .tree import Field
from .upgrade import v1_type

_INDENT = "  "


def is_v0(document: Document) -> bool:
    """Whether a net has V0 layers, which makes all of it a V0 net."""
    return any(message.all("layer") for message in layer_messages(document))


def as_v1(document: Document) -> Document:
    """A V0 net with V1 layers, and all else as it was.

    Raises:
        FormatError: see `read_layers`.
    """
    upgraded = {spec.index: spec.fields for spec in read_layers(document)}
    end, edits, index = newline_of(document.source), [], 0
    for field in document.root.fields:
        if field.name != "layers":
            continue
        texts = [_comments(document, field)]
        for _ in field.messages:
            # A padding layer has become part of the next one.
            texts += [_layer(upgraded[index])] if index in upgraded else []
            index += 1
        lines = [line for text in texts for line in text]
        edits.append((*field.span, end.join(lines)))
    return document.splice(edits)


def _comments(document: Document, field: Field) -> list[bytes]:
    return [document.text(span) for span in comments(document.source, field.span)]


def _layer(fields: Fields) -> list[bytes]:
    """A LayerParameter as V1 text, line by line."""
    values: dict[str, list[Value]] = {}
    for name in ("name", "type", "bottom", "top"):
        values[name] = list(fields.all(name))
    params = fields.messages("param")
    for old, new in (("blobs_lr", "lr_mult"), ("weight_decay", "decay_mult")):
        values[old] = [param.get(new) for param in params if param.has(new)]
    rest = (name for name in fields.values if name not in values and name != "param")
    values.update((name, list(fields.all(name))) for name in rest)
    values["type"] = [v1_type(fields.text("type"))]
    lines = _message(Fields("V1LayerParameter", values), _INDENT)
    return [b"layers {", *(line.encode("utf-8", "surrogateescape") for line in lines), b"}"]


def _message(fields: Fields, indent: str) -> Iterator[str]:
    for name, values in fields.values.items():
        for value in values:
            if isinstance(value, Fields):
                yield f"{indent}{name} {{"
                yield from _message(value, indent + _INDENT)
                yield f"{indent}}}"
            else:
                yield f"{indent}{name}: {_scalar(MESSAGES[fields.type][name], value)}"


def _scalar(definition: FieldDef, value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if definition.type in ("string", "bytes"):
        return quote(str(value)).decode("utf-8", "surrogateescape")
    return str(value)
