"""Which module stands for which Caffe layer type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..errors import ModelError
from ..formats.caffe.net import LayerSpec
from ..formats.caffe.registry import LayerRegistry
from ..registry import Registry
from ..system import reason
from .layer import Layer, Operation, Setup, Stateless, Unavailable, UnsupportedError

Builder = Callable[[Setup], Layer]
Maker = Callable[[LayerSpec], Operation]

BUILDERS: LayerRegistry[Builder] = LayerRegistry(
    "cannot be run",
    "twofold.caffe_torch",
    """\
    from twofold.caffe_torch import Layer, register

    @register({type!r})
    class {identifier}(Layer):
        def forward(self, *bottoms):
            return ...  # the top, or a tuple of tops; parameters: see Layer.add_blob""",
    UnsupportedError,
)
#: Types that cannot be run -> why; who can run one registers it all the same.
REJECTED: Registry[str, str] = Registry("layer type")

register, unregister, known_types = BUILDERS.register, BUILDERS.unregister, BUILDERS.known


def register_stateless(*types: str) -> Callable[[Maker], Maker]:
    """Register layer types without parameters by a function from a layer's spec to one of its bottoms."""

    def decorate(make: Maker) -> Maker:
        BUILDERS.add(partial(Stateless, make=make), *types)
        return make

    return decorate


def build_layer(setup: Setup) -> Layer:
    """The module of a layer; one that raises when it is run if the layer cannot be built.

    A layer that nobody runs (behind the last convolution, say) must not keep a net from being built.
    """
    try:
        builder = BUILDERS.of(setup.spec, REJECTED.get(setup.spec.type))
    except ModelError as error:
        return Unavailable(setup, error)
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
