"""Which module stands for which Caffe layer type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ..errors import ModelError
from ..formats.caffe.kinds import plain_type, types
from ..formats.caffe.net import LayerSpec
from .layer import Layer, Operation, Setup, Stateless, Unavailable, UnsupportedError

Builder = Callable[[Setup], Layer]
BuilderType = TypeVar("BuilderType", bound=Builder)
Maker = Callable[[LayerSpec], Operation]

_BUILDERS: dict[str, Builder] = {}
_REJECTED: dict[str, str] = {}
_SPELLING: dict[str, str] = {}

_HOW = """\
    from twofold.caffe_torch import Layer, register

    @register({type!r})
    class {identifier}(Layer):
        def forward(self, *bottoms):
            return ...  # the top, or a tuple of tops; parameters: see Layer.add_blob"""


def register(*types: str) -> Callable[[BuilderType], BuilderType]:
    """Make a class (or a function from a `Setup` to a `Layer`) the module of layer types.

    Raises:
        ValueError: a type is registered already.
    """

    def decorate(builder: BuilderType) -> BuilderType:
        for kind in types:
            key = _normalised(kind)
            if key in _BUILDERS:
                raise ValueError(
                    f"layer type {kind!r} is registered already; unregister it first to replace it"
                )
            _BUILDERS[key] = builder
            _SPELLING[key] = kind
        return builder

    return decorate


def stateless(*types: str) -> Callable[[Maker], Maker]:
    """Register layer types without parameters by a function from a layer's spec to one of its bottoms."""

    def decorate(make: Maker) -> Maker:
        register(*types)(partial(Stateless, make=make))
        return make

    return decorate


def reject(why: str, *types: str) -> None:
    """Say of layer types why they cannot be run; who can run one registers it all the same."""
    _REJECTED.update(dict.fromkeys(map(_normalised, types), why))


def unregister(kind: str) -> None:
    """Forget a layer type, so that it can be registered anew; unknown ones are ignored."""
    _BUILDERS.pop(_normalised(kind), None)
    _SPELLING.pop(_normalised(kind), None)


def known_types() -> list[str]:
    """All layer types that can be run, sorted."""
    run = (one for one in types() if _normalised(plain_type(one)) in _BUILDERS)
    return sorted({*_SPELLING.values(), *run}, key=str.casefold)


def build_layer(setup: Setup) -> Layer:
    """The module of a layer; one that raises when it is run if the layer cannot be built.

    A layer that nobody runs (behind the last convolution, say) must not keep a net from being built.
    """
    key = _normalised(setup.spec.type)
    builder = _BUILDERS.get(key) or _BUILDERS.get(_normalised(plain_type(setup.spec.type)))
    if builder is None:
        return Unavailable(setup, _unknown(setup.spec))
    setup = replace(setup, spec=replace(setup.spec, type=_SPELLING.get(key, setup.spec.type)))
    try:
        return builder(setup)
    except UnsupportedError as error:
        return Unavailable(setup, error)


def _unknown(spec: LayerSpec) -> ModelError:
    identifier = "".join(part for part in spec.type if part.isalnum()) or "MyLayer"
    why = _REJECTED.get(_normalised(spec.type)) or f"known are {', '.join(known_types())}"
    return ModelError(
        f"layer {spec.name!r} has the type {spec.type!r}, which cannot be run; {why}. To add it:\n"
        + _HOW.format(type=spec.type, identifier=identifier)
    )


def _normalised(kind: str) -> str:
    return kind.strip().casefold()
