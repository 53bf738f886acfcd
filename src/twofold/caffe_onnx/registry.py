"""Which function writes which Caffe layer type into an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..errors import ModelError
from ..formats.caffe.layer_types import plain_type, types
from ..formats.caffe.net import LayerSpec
from .site import Site, Value

#: Writes a layer's nodes; gives the value of its top, or of its tops in order.
Emitter = Callable[[Site], "Value | tuple[Value, ...]"]
EmitterType = TypeVar("EmitterType", bound=Emitter)

_EMITTERS: dict[str, Emitter] = {}
#: Those of twofold, which write the variants of a type that are known here, and no other.
_OWN: set[Emitter] = set()

#: Types that no graph needs -> why. What they are given becomes an output of the graph.
LEFT_OUT: dict[str, str] = {}

_HOW = """\
    from twofold.caffe_onnx import Site, emits

    @emits({type!r})
    def emit(site: Site) -> str:
        return site.node("Relu", site.bottoms[0])  # an ONNX operator; parameters: site.parameter(0)"""


def emits(*types: str) -> Callable[[EmitterType], EmitterType]:
    """Make a function the emitter of layer types.

    Raises:
        ValueError: a type has an emitter already.
    """

    def decorate(emitter: EmitterType) -> EmitterType:
        for kind in types:
            if kind in _EMITTERS:
                raise ValueError(f"layer type {kind!r} has an emitter already; forget it first to replace it")
            _EMITTERS[kind] = emitter
        return emitter

    return decorate


def forget(kind: str) -> None:
    """Forget the emitter of a type, so that it can be registered anew; unknown ones are ignored."""
    _EMITTERS.pop(kind, None)


def own_types() -> None:
    """Take what is registered so far for twofold's own; what users register later takes any variant."""
    _OWN.update(_EMITTERS.values())


def leave_out(why: str, *types: str) -> None:
    """Say of layer types that they are no part of an exported graph."""
    LEFT_OUT.update(dict.fromkeys(types, why))


def known_types() -> list[str]:
    """All types that can be exported, sorted."""
    written = (one for one in types() if plain_type(one) in _EMITTERS)
    return sorted({*_EMITTERS, *written}, key=str.casefold)


def emitter(spec: LayerSpec) -> Emitter:
    """The emitter of a layer.

    Raises:
        ModelError: its type has none; how to register one. Or it is a variant that is not known.
    """
    found = _EMITTERS.get(spec.type) or _EMITTERS.get(plain_type(spec.type))
    if found is None:
        raise ModelError(
            f"{spec.label} has the type {spec.type!r}, which cannot be exported to ONNX; known are "
            f"{', '.join(known_types())}. To add it:\n" + _HOW.format(type=spec.type)
        )
    if found in _OWN and not spec.known_type:
        raise ModelError(
            f"{spec.label} ({spec.type}) has {', '.join(spec.unknown)}, of which it is not known what it "
            f"does; remove it if it does nothing, or give {spec.type!r} an emitter of your own "
            "(twofold.caffe_onnx.forget, then emits)"
        )
    return found
