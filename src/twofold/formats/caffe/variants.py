"""What the text of a layer gives that is not known here: fields of forks, and values of enums.

A field that BVLC Caffe lacks may change what its layer computes. Fields of forks that are known stand in
`caffe.schema`, with the layer types in which it is known what they do. A layer that has any other is no layer
of its type, but one of unknown meaning: `LayerSpec.known_type`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .tree import Field, Message, Scalar

#: Fields of forks that change how layers are run, trained or stored, but not what they compute.
HARMLESS = frozenset({
    "engine", "force_backward", "need_backward", "phase", "debug_info", "share_in_parallel", "prefetch",
    # V1's training entries, which many files keep when they are upgraded by hand
    "blobs_lr", "weight_decay", "lr_mult", "decay_mult",
    # NVCaffe: number formats and algorithms
    "forward_type", "backward_type", "forward_math", "backward_math", "cudnn_math_override",
    "cudnn_convolution_algo_seeker", "conv_algos_override", "default_forward_type", "default_backward_type",
    # of other frameworks' converters: a comment
    "comment",
})  # fmt: skip
#: Messages that fill or train parameters, or write files.
_ASIDE = frozenset({"FillerParameter", "ParamSpec", "SaveOutputParameter", "BlobProto"})
#: Message -> fields of forks, and fields that give the same in another way, or have a meaning that is not
#: known together with them.
_CLASHES = {
    "ConvolutionParameter": (
        (("hole", "hole_h", "hole_w"), ("dilation",)),
        (("pad_l", "pad_r", "pad_t", "pad_b"), ("pad", "pad_h", "pad_w")),
    ),
    "PoolingParameter": ((("ceil_mode",), ("round_mode",)),),
}
#: Longest text of a value in messages.
_LONGEST = 24


def unknown_parts(layer: Message, type_: str) -> tuple[str, ...]:
    """Everything in a layer's text of which it is not known what it does to a layer of that type.

    Args:
        layer: its text.
        type_: its V2 type.

    Returns:
        Fields as the text has them, as "convolution_param.pad_type: SAME", in its order, each once.
    """
    return tuple(dict.fromkeys(_unknown(layer, type_, "")))


def _unknown(message: Message, type_: str, prefix: str) -> Iterator[str]:
    for field in message.fields:
        if field.name in HARMLESS or (not prefix and field.name == "type"):
            continue
        known = field.definition
        if known is None or (known.only and type_ not in known.only):
            yield f"{prefix}{_text(field)}"
        elif known.type_name in _ASIDE:
            continue
        elif any(isinstance(value, Scalar) and not value.known for value in field.values):
            yield f"{prefix}{_text(field)}"
        for value in field.messages if known is not None else ():
            yield from _unknown(value, type_, f"{prefix}{field.name}.")
    names = {field.name for field in message.fields}
    for ours, others in _CLASHES.get(message.type, ()):
        both = [sorted(names.intersection(group)) for group in (ours, others)]
        if all(both):
            yield f"{prefix}{both[0][0]} beside {both[1][0]}"


def _text(field: Field) -> str:
    """A field as messages have it; of a message, and of a long value, the beginning."""
    values: Sequence[str] = [
        "{...}" if isinstance(value, Message) else value.raw.decode("utf-8", "replace")
        for value in field.values
    ]
    text = values[0] if len(values) == 1 else f"[{', '.join(values)}]"
    text = f"{field.name}: {text}" if text != "{...}" else f"{field.name} {text}"
    return text if len(text) <= len(field.name) + _LONGEST else f"{text[: len(field.name) + _LONGEST]}..."
