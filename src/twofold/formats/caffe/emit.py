"""The text of the layers that replace a layer, made from the layer's own text.

Each new layer is a copy of the original's text with only those places changed that must differ: names, blobs,
sizes, and which of the parameters it has. So the file's own style, fields that we do not know, rules, fillers
and engines carry over without being understood. What is changed:

- the window (kernel, pad, stride, dilation) where the factor's differs, in the shortest form Caffe takes;
- `type`, where a factor of a Deconvolution is a Convolution;
- `num_output` on all but the last; `bias_term: false` on those, and `bias_term: true` where the last gains
  a bias; `group` where the factor's differs; `engine: CAFFE` on a depthwise factor, since Caffe's cuDNN
  engine takes a handle and a stream for every group and runs them one by one;
- training entries (`param`, or V1's `blobs_lr`, `weight_decay`, `param`, `blob_share_mode`): the weight's go
  to every factor, the bias's to the last. A weight's shared name gets the factor's number, so that layers
  that shared their weight share its factors, and nothing else;
- `bias_filler` and `loss_weight` stay on the last alone, `propagate_down` on the first alone, comments on
  the last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...conv import ConvGeometry
from .layer_types import LayerAdapter, adapter_of, plain
from .prototxt import Document, after_space, apply_edits, comments, parse
from .tree import Field, Message, Scalar
from .upgrade import V1_TYPES, v1_type

Edit = tuple[int, int, bytes]

#: Fields that hold one value per parameter blob; all but `param` are V1's.
_PER_BLOB = ("blobs_lr", "weight_decay", "blob_share_mode", "param")
#: More convolutions than any scheme puts in the place of one.
MAX_FACTORS = 4

_NEWLINE = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class NewLayerText:
    """What one of the new layers is called and connected to.

    Attributes:
        name: its name.
        bottom: name of its input blob.
        top: name of its output blob.
        geometry: its shape.
        bias: whether it has a bias.
    """

    name: str
    bottom: str
    top: str
    geometry: ConvGeometry
    bias: bool


def rejection(layer: Message) -> str | None:
    """Why a layer's text cannot be split, in words for users; None where it can."""
    for name, one in (("bottom", "input"), ("top", "output")):
        count = sum(len(field.values) for field in layer.all(name))
        if count != 1:
            return f"has {count} {one}s; only a convolution with one can be split"
    # What a V0 layer is stands in a message of its own.
    own = layer.all("layer")[0].messages[0] if layer.all("layer") else layer
    if own.all("blobs"):
        return "holds its weights in the text; move them to the caffemodel"
    if not own.all("name"):
        return "has no name, by which its weights would be found"
    bottom, top = (layer.all(name)[0].scalars[0].value for name in ("bottom", "top"))
    if bottom == top:
        # Caffe takes a blob that is made anew under a name already in use for a mistake.
        return "overwrites its input; give its output a name of its own"
    return None


def replace_layer(document: Document, layer: Message, new_layers: Sequence[NewLayerText]) -> Edit:
    """The edit that puts new layers in a layer's place.

    Args:
        document: the file.
        layer: a convolution's message, not rejected.
        new_layers: first to last.
    """
    owner = next(field for field in document.root.fields if any(value is layer for value in field.values))
    # What is repeated for every new layer is the whole field, or one element of a list.
    span = layer.span if owner.listed else owner.span
    head = f"{owner.name}: ".encode() if owner.listed else b""
    text, shared = document.text(span), _factor_names(document)
    copies = []
    for index, new in enumerate(new_layers):
        last = index == len(new_layers) - 1
        copy = parse(head + (text if last else _without_comments(text)), document.path)
        edits = _edits(copy, copy.root.fields[0].messages[0], new, index, last, shared)
        copies.append(apply_edits(copy.source, edits)[len(head) :])
    return (*span, _separator(document, span, owner.listed).join(copies))


def newline_of(source: bytes) -> bytes:
    """How the text's lines end. A carriage return alone counts only where nothing else ends a line."""
    match = re.search(rb"\r?\n", source) or re.search(rb"\r", source)
    return match.group() if match else b"\n"


def _indent(document: Document, offset: int) -> bytes | None:
    """White space before `offset` on its line; None where something else stands there."""
    start = max(document.source.rfind(b"\n", 0, offset), document.source.rfind(b"\r", 0, offset)) + 1
    before = document.source[start:offset]
    return before if not before.strip(b" \t") else None


def _separator(document: Document, span: tuple[int, int], listed: bool) -> bytes:
    comma = b"," if listed else b""
    indent = _indent(document, span[0])
    if indent is None or not _NEWLINE.search(document.source):
        return comma + b" "
    return comma + newline_of(document.source) + indent


def _without_comments(text: bytes) -> bytes:
    """Remove all comments, and lines that hold nothing else."""
    edits: list[Edit] = []
    for start, end in comments(text, (0, len(text))):
        line = len(text[:start].rstrip(b" \t"))
        newline = _NEWLINE.match(text, end)
        alone = line == 0 or text[line - 1 : line] in (b"\n", b"\r")
        edits.append((line, newline.end() if alone and newline else end, b""))
    return apply_edits(text, edits)


def _edits(
    copy: Document, layer: Message, new: NewLayerText, index: int, last: bool, shared: Mapping[str, list[str]]
) -> list[Edit]:
    """What turns a copy of the original into one of the new layers."""
    edits: list[Edit] = [
        _renamed(layer.all("name")[0], new.name),
        _renamed(layer.all("bottom")[0], new.bottom),
        _renamed(layer.all("top")[0], new.top),
    ]
    edits += _train_edits(copy, layer, index, new.bias, shared)
    edits += _param_edits(copy, layer, new, last)
    edits += _type_edits(layer, new.geometry)
    if not last:
        edits += [_removal(copy, field) for field in layer.all("loss_weight")]
    if index:
        edits += [_removal(copy, field) for field in layer.all("propagate_down")]
    return [_keeping_comments(copy, edit) for edit in edits]


def _adapter(layer: Message) -> LayerAdapter | None:
    given = str(layer.all("type")[-1].scalars[0].value)
    return adapter_of(V1_TYPES.get(given, given))


def _type_edits(layer: Message, geometry: ConvGeometry) -> list[Edit]:
    """A factor of another layer type gets the type of that: of a Deconvolution one that has one tap."""
    own = _adapter(layer)
    if plain(geometry.layer_type, own) is own:
        return []
    (scalar,) = layer.all("type")[-1].scalars
    new = plain(geometry.layer_type).types[0]
    if scalar.raw[:1] in (b"'", b'"'):
        return [(*scalar.span, quote(new, scalar.raw))]
    return [(*scalar.span, v1_type(new).encode())]  # the old format's are no strings


def _keeping_comments(document: Document, edit: Edit) -> Edit:
    """The edit with the comments that it would remove after its new text."""
    start, end, text = edit
    kept = (
        document.text(span) + newline_of(document.source) for span in comments(document.source, (start, end))
    )
    return (start, end, text + b"".join(b" " + comment for comment in kept))


def quote(text: str, like: bytes = b'"') -> bytes:
    """A string literal that Caffe reads back as `text`, in the quotes that `like` begins with."""
    mark = b"'" if like.startswith(b"'") else b'"'
    escaped = text.encode("utf-8", "surrogateescape").replace(b"\\", b"\\\\").replace(mark, b"\\" + mark)
    return mark + re.sub(rb"[\x00-\x1f\x7f]", lambda match: b"\\%03o" % match.group()[0], escaped) + mark


def _renamed(field: Field, text: str) -> Edit:
    (scalar,) = field.scalars
    return (*scalar.span, quote(text, scalar.raw))


def _removal(document: Document, field: Field) -> Edit:
    """Remove a field with its separator, and with its whole line where nothing else is on it."""
    source, (start, end) = document.source, field.span
    following = after_space(source, end)
    if source[following : following + 1] in (b";", b","):
        end = following + 1
    indent = _indent(document, start)
    rest = re.compile(rb"[ \t]*(?:\r\n|\n|\r)").match(source, end)
    if indent is not None and rest:
        return (start - len(indent), rest.end(), b"")
    gap = re.compile(rb"[ \t]+").match(source, end)
    return (start, gap.end() if gap else end, b"")


# Training entries


def _train_edits(
    document: Document, layer: Message, index: int, bias: bool, shared: Mapping[str, list[str]]
) -> list[Edit]:
    edits: list[Edit] = []
    for name in _PER_BLOB:
        position = 0
        for field in layer.all(name):
            has_weight = position == 0 and len(field.values) > 0
            kept = field.values if bias else field.values[: int(has_weight)]
            position += len(field.values)
            if not kept:
                edits.append(_removal(document, field))
                continue
            if len(kept) < len(field.values):
                edits.append((kept[-1].span[1], field.values[-1].span[1], b""))
            named = _shared_name(kept[0]) if has_weight else None
            if named is not None:
                edits.append((*named.span, quote(shared[str(named.value)][index], named.raw)))
    return edits


def _shared_name(value: Scalar | Message) -> Scalar | None:
    """The literal that names a parameter for sharing, if there is one that is not empty."""
    if isinstance(value, Scalar):
        named = [value] if isinstance(value.value, str) and value.raw[:1] in (b"'", b'"') else []
    else:
        named = [field.scalars[0] for field in value.all("name") if field.scalars]
    return named[0] if named and named[0].value else None


def _factor_names(document: Document) -> dict[str, list[str]]:
    """For every name of a shared parameter: what its factors are called, so that no two names meet."""
    entries = (
        value
        for field in document.root.fields
        if field.name in ("layer", "layers")
        for layer in field.messages
        for entry in layer.all("param")
        for value in entry.values
    )
    names = {str(named.value): None for named in map(_shared_name, entries) if named is not None}
    taken = set(names)
    return {name: [free_name(f"{name}_{i}", taken) for i in range(MAX_FACTORS)] for name in names}


def free_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or with the first number after it that makes it new; adds it to `taken`."""
    free, number = wanted, 0
    while free in taken:
        number += 1
        free = f"{wanted}_{number}"
    taken.add(free)
    return free


# Convolution parameters


def _param_edits(document: Document, layer: Message, new: NewLayerText, last: bool) -> list[Edit]:
    adapter = plain(new.geometry.layer_type, _adapter(layer))
    param = layer.all(adapter.param)[0].messages[0]
    output = param.all("num_output")[0]
    had_bias = param.to_fields().flag("bias_term")
    edits, added = [], []
    if had_bias != new.bias:
        text = _assigned(document, output, "bias_term", str(new.bias).lower())
        given = param.all("bias_term")
        edits += [(*field.span, text) for field in given]
        added += [] if given else [text]
    if not new.bias and (had_bias or not last):
        edits += [_removal(document, field) for field in param.all("bias_filler")]
    for sizes in adapter.sizes(new.geometry, param.to_fields()):
        written = [field for field in param.fields if field.name in sizes.names]
        if sizes.given(param.to_fields()) == sizes.values:
            continue
        like = (written or [output])[0]
        texts = [_assigned(document, like, name, str(size)) for name, size in sizes.spelled]
        if written:
            edits.append((*written[0].span, _joined(document, param, texts)))
            edits += [_removal(document, field) for field in written[1:]]
        else:
            added += texts
    if new.geometry.groups == new.geometry.c_in > 1:
        text = _assigned(document, output, "engine", "CAFFE")
        given = param.all("engine")
        edits += [(*field.span, text) for field in given]
        added += [] if given else [text]
    if added or param.to_fields().integer("num_output") != new.geometry.c_out:
        text = _assigned(document, output, "num_output", str(new.geometry.c_out))
        edits.append((*output.span, _joined(document, param, [text, *added])))
    return edits


def _assigned(document: Document, like: Field, name: str, value: str) -> bytes:
    """A field with white space around its colon as another field has it."""
    colon = re.compile(rb"[ \t]*:[ \t]*").match(document.source, like.span[0] + len(like.name))
    return name.encode() + (colon.group() if colon else b": ") + value.encode()


def _joined(document: Document, param: Message, texts: Sequence[bytes]) -> bytes:
    """Fields in the message's own style: each on a line of its own, or all on one."""
    own_lines = [_indent(document, field.span[0]) for field in param.fields]
    if own_lines and all(indent is not None for indent in own_lines):
        return (newline_of(document.source) + (own_lines[0] or b"")).join(texts)
    return b" ".join(texts)
