"""Which module stands for which Caffe layer type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ..errors import ModelError
from ..formats.caffe.layer_types import plain_type, types
from ..formats.caffe.net import LayerSpec
from ..system import reason
from .layer import Layer, Operation, Setup, Stateless, Unavailable, UnsupportedError

Builder = Callable[[Setup], Layer]
BuilderType = TypeVar("BuilderType", bound=Builder)
Maker = Callable[[LayerSpec], Operation]

_BUILDERS: dict[str, Builder] = {}
#: Types that cannot be run -> why.
REJECTED: dict[str, str] = {}
#: Those of twofold, which compute the variants of a type that are known here, and no other.
_OWN: set[Builder] = set()

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
            if kind in _BUILDERS:
                raise ValueError(
                    f"layer type {kind!r} is registered already; unregister it first to replace it"
                )
            _BUILDERS[kind] = builder
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
    REJECTED.update(dict.fromkeys(types, why))


def unregister(kind: str) -> None:
    """Forget a layer type, so that it can be registered anew; unknown ones are ignored."""
    _BUILDERS.pop(kind, None)


def own_types() -> None:
    """Take what is registered so far for twofold's own; what users register later takes any variant."""
    _OWN.update(_BUILDERS.values())


def known_types() -> list[str]:
    """All layer types that can be run, sorted."""
    run = (one for one in types() if plain_type(one) in _BUILDERS)
    return sorted({*_BUILDERS, *run}, key=str.casefold)


def build_layer(setup: Setup) -> Layer:
    """The module of a layer; one that raises when it is run if the layer cannot be built.

    A layer that nobody runs (behind the last convolution, say) must not keep a net from being built.
    """
    spec = setup.spec
    builder = _BUILDERS.get(spec.type) or _BUILDERS.get(plain_type(spec.type))
    if builder is None:
        return Unavailable(setup, _unknown(spec))
    if builder in _OWN and not spec.known_type:
        return Unavailable(setup, _unknown_variant(spec))
    try:
        return builder(setup)
    except UnsupportedError as error:
        return Unavailable(setup, error)
    except (IndexError, ValueError, ZeroDivisionError, OverflowError, RuntimeError, TypeError) as error:
        return Unavailable(setup, _unfit(setup, error))


def _unfit(setup: Setup, error: Exception) -> ModelError:
    """What parameters, bottoms and axes that do not go together lead to, in PyTorch or before it."""
    shapes = ", ".join("unknown" if one is None else str(list(one)) for one in setup.bottoms) or "none"
    spec = setup.spec
    return ModelError(
        f"{spec.label} ({spec.type}): its parameters do not fit inputs of shape {shapes}: {reason(error)}"
    )


def _unknown_variant(spec: LayerSpec) -> ModelError:
    return UnsupportedError(
        f"{spec.label} ({spec.type}) has {', '.join(spec.unknown)}, of which it is not known what it does; "
        f"remove it if it does nothing, or register a {spec.type!r} of your own "
        "(twofold.caffe_torch.unregister, then register)"
    )


def _unknown(spec: LayerSpec) -> ModelError:
    identifier = "".join(part for part in spec.type if part.isalnum()) or "MyLayer"
    why = REJECTED.get(spec.type) or f"known are {', '.join(known_types())}"
    return ModelError(
        f"layer {spec.name!r} has the type {spec.type!r}, which cannot be run; {why}. To add it:\n"
        + _HOW.format(type=spec.type, identifier=identifier)
    )
