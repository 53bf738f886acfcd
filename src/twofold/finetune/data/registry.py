"""Which reader stands for which type of data layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ...errors import InputError
from ...formats.caffe.fields import Fields
from ...formats.caffe.net import LayerSpec
from ...registry import Registry
from .chance import Chance
from .locate import Locator
from .reader import Array, Items, Reader


@dataclass(frozen=True, eq=False)
class Request:
    """All that the items of a layer are opened from.

    Attributes:
        spec: the layer.
        phase: "TRAIN" or "TEST".
        locate: finds the files that it names.
        fed: rows of blobs that the caller gives, by the blob's name.
    """

    spec: LayerSpec
    phase: str
    locate: Locator
    fed: Mapping[str, Array] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What messages call the layer."""
        return f"{self.spec.label} ({self.spec.type}, phase {self.phase})"

    @property
    def transform(self) -> Fields:
        """The TransformationParameter."""
        return self.spec.fields.message("transform_param")


Opener = Callable[[Request], Items]
OPENERS: Registry[str, Opener] = Registry("type of data layer")
register, unregister = OPENERS.register, OPENERS.unregister


def known_types() -> list[str]:
    """All layer types that can be read, sorted."""
    return sorted(OPENERS)


def open_reader(request: Request, seed: int) -> Reader:
    """The reader of a data layer. Rows that the caller gives for its tops replace what it would read.

    Args:
        request: the layer, and what it needs.
        seed: of the training.

    Raises:
        InputError: the layer cannot be read.
    """
    spec = request.spec
    layer_type = "Input" if set(spec.tops) & request.fed.keys() else spec.type
    if spec.unknown and layer_type != "Input":
        raise InputError(
            f"{request.label}: has {', '.join(spec.unknown)}, of which it is not known what it does to the "
            f"data; remove it, or feed {', '.join(map(repr, spec.tops))} from Python: "
            f"finetune.train(..., {_ARGUMENT[request.phase]}={{...}})"
        )
    if layer_type not in OPENERS:
        raise InputError(
            f"{request.label}: data of this type cannot be read{OPENERS.hint(layer_type)}. Use "
            f"one of these, or feed {', '.join(map(repr, spec.tops))} from Python: finetune.train(..., "
            f"{_ARGUMENT[request.phase]}={{...}})"
        )
    chance = Chance(seed, f"{request.phase}/{spec.name}")
    return Reader(spec.tops, OPENERS[layer_type](request), chance, request.label)


_ARGUMENT = {"TRAIN": "train_data", "TEST": "test_data"}
