"""What every layer of a Caffe net is in torch: a module with Caffe's parameter blobs, in Caffe's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..conv import Size
from ..errors import ModelError
from ..formats.caffe.fields import Fields
from ..formats.caffe.net import LayerSpec
from ..formats.caffe.shapes import RULES, Shape
from .fillers import fill

#: What a layer gives: one top, several, or none.
Tops = Tensor | tuple[Tensor, ...]
#: What a layer without parameters does with its bottoms.
Operation = Callable[..., Tops]


class UnsupportedError(ModelError):
    """A layer that cannot be run, though its type is known; the rest of its net can."""


class ShapeUnknownError(UnsupportedError):
    """The shape of a parameter follows from an input of unknown shape, and no weights are there."""


#: Bytes of first values that a net makes where its weights hold none: twice the parameters of VGG-16.
ROOM = 1 << 30


@dataclass
class Filling:
    """Makes the first values of a net's blobs that no file holds.

    Attributes:
        generator: source of randomness.
        room: bytes that they may still take: a line of text asks for any number of them.
    """

    generator: torch.Generator
    room: int = ROOM

    def __call__(self, where: str, shape: Size, filler: Fields) -> Tensor:
        """The values of one blob.

        Raises:
            UnsupportedError: they take more than there is room for.
        """
        size = 4 * math.prod(shape)
        if size > self.room:
            raise UnsupportedError(
                f"{where} has shape {list(shape)}, {size / 2**30:.1f} GiB, which no weights hold, and "
                f"{self.room / 2**30:.1f} GiB are left for such blobs; give weights that hold it, or mend "
                "the definition"
            )
        self.room -= size
        return fill(shape, filler, self.generator)


@dataclass(frozen=True)
class Setup:
    """All that a layer is built from.

    Attributes:
        spec: its definition.
        bottoms: shapes of its inputs as the definition declares them, None where unknown.
        stored: its blobs in the weight file, or None if the file has none for it.
        filling: makes the blobs that are not stored.
    """

    spec: LayerSpec
    bottoms: tuple[Shape, ...]
    stored: Sequence[NDArray[np.generic]] | None
    filling: Filling

    def blob_shape(self, index: int) -> Shape:
        """Shape of a stored blob, None where there is none."""
        if self.stored is None or index >= len(self.stored):
            return None
        return tuple(self.stored[index].shape)

    def initial(self, index: int, shape: Shape, filler: Fields) -> Tensor:
        """First values of blob `index`: the stored ones, else the filler's.

        Args:
            index: position among the layer's blobs.
            shape: what the layer needs; None where its input is unknown, then the stored shape holds.
            filler: FillerParameter.

        Raises:
            ModelError: the stored blob has another shape.
            ShapeUnknownError: nothing tells the shape.
            UnsupportedError: there is no room for values that are not stored.
        """
        found = self.blob_shape(index)
        wanted = found if shape is None else shape
        if wanted is None:
            raise ShapeUnknownError(
                f"layer {self.spec.name!r} ({self.spec.type}): the shape of blob {index} follows from its "
                "input, whose shape the net does not declare; give the shapes of the net's inputs, or weights"
            )
        if found is None:
            return self.filling(f"{self.spec.label} ({self.spec.type}): blob {index}", wanted, filler)
        assert self.stored is not None
        return fitted(self.spec, index, self.stored[index], wanted)


def fitted(spec: LayerSpec, index: int, array: NDArray[np.generic], shape: Size) -> Tensor:
    """A stored blob as a float32 tensor of the shape that its layer needs.

    Args:
        spec: the layer.
        index: position among its blobs.
        array: what is stored.
        shape: what the layer needs.

    Raises:
        ModelError: the stored blob has another shape.
    """
    # Files older than Caffe's N-D blobs pad every shape with ones in front: (1, 1, out, in).
    if _without_leading_ones(array.shape) != _without_leading_ones(shape):
        raise ModelError(
            f"layer {spec.name!r} ({spec.type}): blob {index} of the weights has shape "
            f"{list(array.shape)}, the definition needs {list(shape)}; give the weights of this definition"
        )
    return torch.from_numpy(np.array(array, np.float32).reshape(shape))


class Layer(nn.Module):
    """Base of all layers: a module that is called with the bottoms and returns the tops.

    `training` stands for Caffe's phase: True is TRAIN.

    Attributes:
        spec: the layer's definition.
        default_loss_weight: weight of the first top in the net's loss where the definition names none.
    """

    default_loss_weight: ClassVar[float] = 0.0
    #: Whether Caffe keeps the optimizer away from the layer's blobs (BatchNorm's statistics).
    fixed: ClassVar[bool] = False

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.spec = setup.spec
        self.blob_names: list[str] = []
        self._statistics: set[int] = set()

    def add_blob(
        self, setup: Setup, name: str, shape: Shape, filler: Fields, *, fixed: bool | None = None
    ) -> None:
        """Add the next of Caffe's blobs as attribute `name`: a parameter, or a buffer where it is `fixed`.

        Whether it is fixed the class says where the call does not.
        """
        tensor = setup.initial(len(self.blob_names), shape, filler)
        if self.fixed if fixed is None else fixed:
            self._statistics.add(len(self.blob_names))
            self.register_buffer(name, tensor)
        else:
            rate = self.param(len(self.blob_names)).number("lr_mult")
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=rate != 0))
        self.blob_names.append(name)

    @property
    def obstacle(self) -> ModelError | None:
        """Why the layer cannot be run in its phase; None where it can."""
        return None

    def loaded(self) -> None:
        """Look at the blobs, which have new values."""

    @property
    def blobs(self) -> list[Tensor]:
        """The layer's parameter blobs in Caffe's order."""
        return [getattr(self, name) for name in self.blob_names]

    def param(self, index: int) -> Fields:
        """The ParamSpec of blob `index`, empty where the definition has none."""
        given = self.spec.fields.messages("param")
        return given[index] if index < len(given) else Fields("ParamSpec")

    def multiplier(self, index: int, name: str) -> float:
        """`lr_mult` or `decay_mult` of blob `index`."""
        return 0.0 if index in self._statistics and name == "lr_mult" else self.param(index).number(name)

    def share(self, index: int, owner: Layer, owner_index: int) -> None:
        """Use another layer's blob as this layer's blob `index` from now on.

        Raises:
            ModelError: the two differ in shape.
        """
        mine, theirs = self.blobs[index], owner.blobs[owner_index]
        if mine.shape != theirs.shape:
            raise ModelError(
                f"layer {self.spec.name!r}: its blob {index} of shape {list(mine.shape)} shares the "
                f"parameter {self.param(index).text('name')!r} with layer {owner.spec.name!r}, where it has "
                f"shape {list(theirs.shape)}; shared parameters need one shape"
            )
        setattr(self, self.blob_names[index], theirs)

    def top_shapes(self, *bottoms: Tensor) -> Sequence[Size]:
        """Shapes of the tops for bottoms of these shapes, by the rule of the layer's type."""
        shapes = RULES[self.spec.type](self.spec, [tuple(bottom.shape) for bottom in bottoms])
        return [shape for shape in shapes if shape is not None]

    def forward(self, *bottoms: Tensor) -> Tops:
        """Compute the tops."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Type and shapes of the blobs, for printing a net."""
        shapes = ", ".join(f"{name}={tuple(getattr(self, name).shape)}" for name in self.blob_names)
        return f"{self.spec.type}{', ' if shapes else ''}{shapes}"


class Stateless(Layer):
    """A layer without parameters that does the same in both phases: an operation made from its spec."""

    def __init__(self, setup: Setup, make: Callable[[LayerSpec], Operation]) -> None:
        super().__init__(setup)
        self._make = make
        self._operation = make(setup.spec)

    def forward(self, *bottoms: Tensor) -> Tops:
        """Apply the operation."""
        return self._operation(*bottoms)

    # Operations are closures, which do not pickle; what they are made from does.
    def __getstate__(self) -> dict[str, Any]:
        """The state without the operation."""
        return {key: value for key, value in self.__dict__.items() if key != "_operation"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state and make a new operation."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._operation = self._make(self.spec)


class Unavailable(Layer):
    """Stands for a layer that could not be built; an error only if it is run."""

    def __init__(self, setup: Setup, reason: ModelError) -> None:
        super().__init__(setup)
        self.reason = reason

    @property
    def obstacle(self) -> ModelError:
        """The reason."""
        return self.reason

    def forward(self, *bottoms: Tensor) -> Tops:
        """Raise the reason."""
        raise self.reason


def constant(value: float) -> Fields:
    """The filler that sets every value."""
    return Fields("FillerParameter", {"type": ["constant"], "value": [value]})


def filler_or(param: Fields, name: str, value: float) -> Fields:
    """A filler field, or a constant where the definition has none."""
    return param.message(name) if param.has(name) else constant(value)


def _without_leading_ones(shape: Size) -> Size:
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape
