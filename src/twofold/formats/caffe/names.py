"""Names of the layers and blobs that replace a layer."""

from __future__ import annotations

from ...conv import Factors
from .emit import free_name
from .net import LayerSpec, read_layers
from .prototxt import Document
from .weights import WeightsFile

_ENDS = frozenset({"Accuracy", "ArgMax", "HDF5Output", "Sigmoid", "Silence", "Softmax"})


class Names:
    """Names for new layers and blobs that nothing in the files has yet."""

    def __init__(self, document: Document, weights: WeightsFile | None) -> None:
        specs = read_layers(document)
        self.layers = {spec.name for spec in specs}
        if weights is not None:
            self.layers.update(layer.name for layer in weights.layers)
        self.blobs = {blob for spec in specs for blob in (*spec.bottoms, *spec.tops)}
        self.blobs.update(document.root.to_fields().texts("input"))
        # What works in place, as a ReLU, leaves an output an output.
        read = {blob for spec in specs if not _is_end(spec) for blob in {*spec.bottoms} - {*spec.tops}}
        self.outputs = {spec.name for spec in specs if spec.tops and read.isdisjoint(spec.tops)}
        self.given: dict[str, tuple[list[str], list[str]]] = {}

    def of(self, name: str, owner: str, stack: Factors) -> tuple[list[str], list[str]]:
        """Names of the layers of a stack that replaces layer `name`, and of the blobs between them.

        Args:
            name: the layer.
            owner: the layer that the stack was made for, which shares its weight with `name` or is it.
            stack: what comes in its place.
        """
        if name not in self.given:
            keeps = stack.names[-1] == owner if stack.names else name in self.outputs
            count = len(stack.convs) - keeps
            layers = [free_name(f"{name}_{i}", self.layers) for i in range(count)]
            layers += [name] if keeps else []
            self.given[name] = (layers, [free_name(layer, self.blobs) for layer in layers[:-1]])
        return self.given[name]


def _is_end(spec: LayerSpec) -> bool:
    """Whether a layer only measures or normalises an output; its training net has the same outputs."""
    return spec.type in _ENDS or "Loss" in spec.type
