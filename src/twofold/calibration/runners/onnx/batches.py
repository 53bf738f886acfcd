"""How samples become what a model takes at a time, and its outputs those of samples again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError, ModelError, option, shape_option
from ....formats.onnx.shapes import batch_size
from ...inputs import SampleShape
from ...runner import Outputs

Values = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Batching:
    """The batch axes of a model's inputs.

    Attributes:
        size: samples that it takes at a time; None for any number.
        shapes: shape of a sample of each input.
        whole: inputs without a batch axis; a sample is the whole input.
    """

    size: int | None
    shapes: Mapping[str, SampleShape]
    whole: frozenset[str] = frozenset()

    @classmethod
    def of(cls, shapes: Mapping[str, SampleShape | None]) -> Batching:
        """Read the batch axes off the shapes of the inputs.

        Raises:
            InputError: the shape of an input is not known.
        """
        for name, shape in shapes.items():
            if shape is None:
                raise InputError(f"the shape of input {name!r} is not known; give it: {shape_option(name)}")
        known = {name: shape for name, shape in shapes.items() if shape is not None}
        if not any(known.values()):
            raise InputError("no input of the model has a batch axis, so it cannot be calibrated")
        size = batch_size(known)
        whole = frozenset(name for name, shape in known.items() if not shape or shape[0] not in (size, None))
        samples = {name: shape if name in whole else shape[1:] for name, shape in known.items()}
        return cls(size if size is not None or not whole else 1, samples, whole)

    def parts(self, values: Mapping[str, NDArray[Any]]) -> list[Values]:
        """Samples as what the model takes at a time; the last part is filled up with samples once more.

        Raises:
            InputError: samples that the model takes together differ in an input without a batch axis.
        """
        if self.size is None:
            return [dict(values)]
        count, size = len(next(iter(values.values()))), self.size
        return [
            {name: self._part(name, array, start) for name, array in values.items()}
            for start in range(0, count, size)
        ]

    def _part(self, name: str, array: NDArray[Any], start: int) -> NDArray[Any]:
        assert self.size is not None
        rows = np.arange(start, start + self.size) % len(array)
        if name not in self.whole:
            return array[rows]
        if any(not np.array_equal(array[start], array[row]) for row in rows):
            raise InputError(
                f"input {name!r} has no batch axis, and the model takes {self.size} samples at a time, which "
                "must have the same values there"
            )
        part: NDArray[Any] = np.asarray(array[start])
        return part

    def own(self, value: Any, count: int) -> Any:
        """Of the values of all parts, joined, those of the first `count` samples."""
        if self.size is None or not value.ndim or not count % self.size:
            return value
        return value[: count * len(value) // (-(-count // self.size) * self.size)]

    def joined(
        self, parts: Sequence[Mapping[str, NDArray[Any]]], count: int, varying: Collection[str] = ()
    ) -> Outputs:
        """Outputs of all samples as float32; those in `varying` as they are, one after the other.

        Raises:
            ModelError: an output differs in shape from part to part.
        """
        found = {}
        for name, value in parts[0].items():
            shapes = {part[name].shape[1:] for part in parts}
            if len(parts) > 1 and (not value.ndim or len(shapes) > 1):
                raise ModelError(
                    f"output {name!r} differs in shape from sample to sample "
                    f"({', '.join(map(str, sorted(shapes)))}); name others ({option('targets')})"
                )
            joined = value if len(parts) == 1 else np.concatenate([part[name] for part in parts])
            own = joined if name in varying else self.own(joined, count)
            found[name] = own.astype(np.float32, copy=False)
        return found


@contextmanager
def other_sizes(
    in_file: Mapping[str, SampleShape | None], given: Mapping[str, SampleShape]
) -> Iterator[None]:
    """Add to what stops a model that it was run in other sizes than those that its file fixes.

    Args:
        in_file: shapes of the inputs by the file, None for an axis that is free, or where it says nothing.
        given: shapes that were given instead.
    """
    try:
        yield
    except ModelError as error:
        changed = [
            f"{name} is {_times(fixed)} in the file and was given as {_times(given[name])}"
            for name, fixed in in_file.items()
            if fixed and name in given and _differ(fixed, given[name])
        ]
        if not changed:
            raise
        raise ModelError(
            f"{error}. {'; '.join(changed)}: sizes that are written into the graph, as in a Reshape, stay as "
            "they were; leave that shape away, or export the model with free sizes"
        ) from error


def _differ(fixed: SampleShape, shape: SampleShape) -> bool:
    return any(a is not None and a != b for a, b in zip(fixed, shape, strict=False))


def _times(shape: SampleShape) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)
