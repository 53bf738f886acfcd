"""Which reader stands for which type of data layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ...errors import InputError
from ...formats.caffe.fields import Fields
from ...formats.caffe.net import LayerSpec
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
_OPENERS: dict[str, Opener] = {}


def reads(kind: str) -> Callable[[Opener], Opener]:
    """Make a function or class what opens the items of a layer type.

    Raises:
        ValueError: the type has one already.
    """

    def decorate(opener: Opener) -> Opener:
        if kind in _OPENERS:
            raise ValueError(f"data layers of type {kind!r} are read already")
        _OPENERS[kind] = opener
        return opener

    return decorate


def known_types() -> list[str]:
    """All layer types that can be read, sorted."""
    return sorted(_OPENERS)


def open_reader(request: Request, seed: int) -> Reader:
    """The reader of a data layer. Rows that the caller gives for its tops replace what it would read.

    Args:
        request: the layer, and what it needs.
        seed: of the training.

    Raises:
        InputError: the layer cannot be read.
    """
    spec = request.spec
    kind = "Input" if set(spec.tops) & request.fed.keys() else spec.type
    if spec.unknown and kind != "Input":
        raise InputError(
            f"{request.label}: has {', '.join(spec.unknown)}, of which it is not known what it does to the "
            f"data; remove it, or feed {', '.join(map(repr, spec.tops))} from Python: "
            f"finetune.train(..., {_ARGUMENT[request.phase]}={{...}})"
        )
    if kind not in _OPENERS:
        raise InputError(
            f"{request.label}: data of this type cannot be read; known are {', '.join(known_types())}. Use "
            f"one of these, or feed {', '.join(map(repr, spec.tops))} from Python: finetune.train(..., "
            f"{_ARGUMENT[request.phase]}={{...}})"
        )
    chance = Chance(seed, f"{request.phase}/{spec.name}")
    return Reader(spec.tops, _OPENERS[kind](request), chance, request.label)


_ARGUMENT = {"TRAIN": "train_data", "TEST": "test_data"}
