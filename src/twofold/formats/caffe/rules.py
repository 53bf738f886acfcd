"""The registry of shape rules: what follows for the tops of a layer from the shapes of its bottoms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...conv import Size
from ...registry import Registry
from .net import LayerSpec

Shape = Size | None
#: From a layer and the known shapes of its bottoms to the shapes of its tops.
Rule = Callable[[LayerSpec, Sequence[Size]], Sequence[Shape]]

RULES: Registry[str, Rule] = Registry("shape rule of layer type")
register = RULES.register
