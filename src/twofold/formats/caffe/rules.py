"""The registry of shape rules: what follows for the tops of a layer from the shapes of its bottoms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...conv import Size
from .net import LayerSpec

Shape = Size | None
#: From a layer and the known shapes of its bottoms to the shapes of its tops.
Rule = Callable[[LayerSpec, Sequence[Size]], Sequence[Shape]]

RULES: dict[str, Rule] = {}


def rule(*types: str) -> Callable[[Rule], Rule]:
    """Register the shape rule of layer types."""

    def register(function: Rule) -> Rule:
        for type_ in types:
            if type_ in RULES:
                raise ValueError(f"Bug: {type_} has a shape rule already")
            RULES[type_] = function
        return function

    return register
