"""The text of the layers that replace a convolution, made from the convolution's own text.

Each new layer is a copy of the original's text with only those places changed that must differ: names, blobs,
sizes, and which of the parameters it has. So the file's own style, fields that we do not know, rules, fillers
and engines carry over without being understood. What is changed:

- the window (kernel, pad, stride, dilation) where the factor's differs, in the shortest form Caffe takes;
- `num_output` on all but the last; `bias_term: false` on those, and `bias_term: true` where the last gains
  a bias;
- training entries (`param`, or V1's `blobs_lr`, `weight_decay`, `param`, `blob_share_mode`): the weight's go
  to every factor, the bias's to the last. A parameter's shared name gets the factor's number, so that layers
  that shared their weight share its factors;
- `bias_filler` and `loss_weight` stay on the last alone, `propagate_down` on the first alone, comments on
  the last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...conv import ConvGeometry
from .prototxt import Document, Field, Message, Scalar, apply_edits, comments

Edit = tuple[int, int, bytes]

#: Fields of V1 layers that hold one value per parameter blob.
_PER_BLOB = ("blobs_lr", "weight_decay", "blob_share_mode", "param")


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


def refusal(layer: Message) -> str | None:
    """Why a layer's text cannot be split, in words for users; None where it can."""
    for name, one in (("bottom", "input"), ("top", "output")):
        count = sum(len(field.values) for field in layer.all(name))
        if count != 1:
            return f"has {count} {one}s; only a convolution with one can be split"
    if layer.all("blobs"):
        return "holds its weights in the text; move them to the caffemodel"
    if not layer.all("name"):
        return "has no name, by which its weights would be found"
    if layer.all("layer"):
        return "is a V0 layer; upgrade the file to today's format first"
    return None


def replace_layer(document: Document, layer: Message, new_layers: Sequence[NewLayerText]) -> Edit:
    """The edit that puts new layers in a layer's place.

    Args:
        document: the file.
        layer: a convolution's message, not refused.
        new_layers: first to last.
    """
    span = _unit(document, layer)
    copies = [_copy(document, layer, span, new_layers, i) for i in range(len(new_layers))]
    return (*span, _separator(document, layer, span).join(copies))


def _unit(document: Document, layer: Message) -> tuple[int, int]:
    """What is repeated for every new layer: the whole field, or one element of a list."""
    field = _owner(document, layer)
    return layer.span if field.listed else field.span


def _owner(document: Document, layer: Message) -> Field:
    return next(field for field in document.root.fields if any(value is layer for value in field.values))


def _newline(source: bytes) -> bytes:
    match = re.search(rb"\r\n|\n|\r", source)
    return match.group() if match else b"\n"


def _indent(document: Document, offset: int) -> bytes | None:
    """White space before `offset` on its line; None where something else stands there."""
    start = max(document.source.rfind(b"\n", 0, offset), document.source.rfind(b"\r", 0, offset)) + 1
    before = document.source[start:offset]
    return before if not before.strip(b" \t") else None


def _separator(document: Document, layer: Message, span: tuple[int, int]) -> bytes:
    comma = b"," if _owner(document, layer).listed else b""
    indent = _indent(document, span[0])
    if indent is None or not re.search(rb"[\r\n]", document.source):
        return comma + b" "
    return comma + _newline(document.source) + indent


def _copy(
    document: Document, layer: Message, span: tuple[int, int], new_layers: Sequence[NewLayerText], index: int
) -> bytes:
    new, last = new_layers[index], index == len(new_layers) - 1
    edits: list[Edit] = [
        _renamed(layer.all("name")[0], new.name),
        _renamed(layer.all("bottom")[0], new.bottom),
        _renamed(layer.all("top")[0], new.top),
    ]
    edits += _train_edits(document, layer, index, last)
    for field in layer.all("convolution_param"):
        edits += _param_edits(document, field.messages[0], new, last)
    if not last:
        edits += [_removal(document, field) for field in layer.all("loss_weight")]
        edits += _without_comments(document, span, edits)
    if index:
        edits += [_removal(document, field) for field in layer.all("propagate_down")]
    shifted = [(start - span[0], end - span[0], text) for start, end, text in edits]
    return apply_edits(document.text(span), shifted)


def quote(text: str, like: bytes = b'"') -> bytes:
    """A string literal that Caffe reads back as `text`, in the kind of quotes that `like` begins with."""
    mark = b"'" if like.startswith(b"'") else b'"'
    escaped = text.encode("utf-8", "surrogateescape").replace(b"\\", b"\\\\").replace(mark, b"\\" + mark)
    return mark + re.sub(rb"[\x00-\x1f\x7f]", lambda match: b"\\%03o" % match.group()[0], escaped) + mark


def _renamed(field: Field, text: str) -> Edit:
    (scalar,) = field.scalars
    return (*scalar.span, quote(text, scalar.raw))


def _removal(document: Document, field: Field) -> Edit:
    """Remove a field with its separator, and with its whole line where nothing else is on it."""
    source, (start, end) = document.source, field.span
    separator = re.compile(rb"[ \t]*[;,]").match(source, end)
    end = separator.end() if separator else end
    indent = _indent(document, start)
    rest = re.compile(rb"[ \t]*(\r\n|\n|\r)").match(source, end)
    if indent is not None and rest:
        return (start - len(indent), rest.end(), b"")
    gap = re.compile(rb"[ \t]+").match(source, end)
    return (start, gap.end() if gap else end, b"")


def _without_comments(document: Document, span: tuple[int, int], edits: Sequence[Edit]) -> list[Edit]:
    """Remove all comments, but for those in text that another edit removes."""
    removals = []
    for start, end in comments(document.source, span):
        if any(first <= start < stop for first, stop, _ in edits):
            continue
        indent = _indent(document, start)
        rest = re.compile(rb"\r\n|\n|\r").match(document.source, end)
        if indent is not None and rest:
            removals.append((start - len(indent), rest.end(), b""))
        else:
            begin = len(document.source[:start].rstrip(b" \t"))
            begin = max([begin, *(stop for first, stop, _ in edits if first <= begin < stop)])
            removals.append((begin, end, b""))
    return removals


# Training entries


def _train_edits(document: Document, layer: Message, index: int, last: bool) -> list[Edit]:
    edits: list[Edit] = []
    for name in _PER_BLOB:
        position = 0
        for field in layer.all(name):
            kept = [value for i, value in enumerate(field.values) if position + i == 0 or last]
            names = [_shared_name(value) for value in field.values if position == 0]
            position += len(field.values)
            if not kept:
                edits.append(_removal(document, field))
                continue
            if len(kept) < len(field.values):
                text = b", ".join(document.text(value.span) for value in kept)
                head = document.text((field.span[0], field.values[0].span[0]))
                tail = document.text((field.values[-1].span[1], field.span[1]))
                edits.append((*field.span, head + _with_name(text, kept[0], index) + tail))
            elif names and names[0] is not None:
                scalar = names[0]
                edits.append((*scalar.span, quote(f"{scalar.value}_{index}", scalar.raw)))
    return edits


def _shared_name(value: Scalar | Message) -> Scalar | None:
    """The literal that names a parameter for sharing, if there is one that is not empty."""
    if isinstance(value, Scalar):
        return (
            value if isinstance(value.value, str) and value.raw[:1] in (b'"', b"'") and value.value else None
        )
    named = [field.scalars[0] for field in value.all("name") if field.scalars]
    return named[0] if named and named[0].value else None


def _with_name(text: bytes, value: Scalar | Message, index: int) -> bytes:
    scalar = _shared_name(value)
    if scalar is None:
        return text
    start = scalar.span[0] - value.span[0]
    end = scalar.span[1] - value.span[0]
    return text[:start] + quote(f"{scalar.value}_{index}", scalar.raw) + text[end:]


# Convolution parameters


def _param_edits(document: Document, param: Message, new: NewLayerText, last: bool) -> list[Edit]:
    edits: list[Edit] = []
    output = param.all("num_output")[0]
    wanted = (
        [] if param.to_fields().flag("bias_term") == new.bias else ["bias_term: " + str(new.bias).lower()]
    )
    bias_term = param.all("bias_term")
    if wanted and bias_term:
        edits.append((*bias_term[0].span, wanted[0].encode()))
        wanted = []
    if not last or wanted:
        number = output.scalars[0].raw if last else b"%d" % new.geometry.c_out
        head = document.text((output.span[0], output.scalars[0].span[0]))
        edits.append(
            (*output.span, _joined(document, param, [head + number, *(text.encode() for text in wanted)]))
        )
    if not new.bias:
        edits += [_removal(document, field) for field in param.all("bias_filler")]
    for names, default, sizes in _window(new.geometry):
        edits += _window_edits(document, param, names, default, sizes)
    return edits


def _window(geometry: ConvGeometry) -> list[tuple[tuple[str, ...], int | None, tuple[int, ...]]]:
    """Field names (one for all axes, then those for height and width), Caffe's default, and the sizes."""
    return [
        (("kernel_size", "kernel_h", "kernel_w"), None, geometry.kernel),
        (("pad", "pad_h", "pad_w"), 0, tuple(before for before, _ in geometry.pad)),
        (("stride", "stride_h", "stride_w"), 1, geometry.stride),
        (("dilation",), 1, geometry.dilation),
    ]


def _window_edits(
    document: Document, param: Message, names: tuple[str, ...], default: int | None, sizes: tuple[int, ...]
) -> list[Edit]:
    written = [field for field in param.fields if field.name in names]
    if not written or _given(param, names, default, len(sizes)) == sizes:
        # What is not written has the default, which every factor of such a layer has along every axis.
        return []
    if len(set(sizes)) == 1:
        texts = [f"{names[0]}: {sizes[0]}"]
    elif len(names) > 1 and len(sizes) == 2:
        texts = [f"{name}: {size}" for name, size in zip(names[1:], sizes, strict=True)]
    else:
        texts = [f"{names[0]}: {size}" for size in sizes]
    first = (*written[0].span, _joined(document, param, [text.encode() for text in texts]))
    return [first, *(_removal(document, field) for field in written[1:])]


def _given(param: Message, names: tuple[str, ...], default: int | None, axes: int) -> tuple[int, ...]:
    """The sizes that the text gives, one per axis."""
    fields = param.to_fields()
    listed = fields.integers(names[0])
    if listed:
        return listed * axes if len(listed) == 1 else listed
    return tuple(fields.integer(name) if fields.has(name) else default or 0 for name in names[1:])


def _joined(document: Document, param: Message, texts: Sequence[bytes]) -> bytes:
    """Fields in the message's own style: each on a line of its own, or all on one."""
    own_lines = [_indent(document, field.span[0]) for field in param.fields]
    if own_lines and all(indent is not None for indent in own_lines):
        return (_newline(document.source) + (own_lines[0] or b"")).join(texts)
    return b" ".join(texts)
