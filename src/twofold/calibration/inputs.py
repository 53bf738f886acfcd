"""The inputs that a network is calibrated on: arrays in memory, in order, with their origin.

Images become such arrays in `images.py`, synthetic images in `synthetic.py`; arrays that the user prepared
himself come in here and are taken as they are: no mean, no scale, no change of colour.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conv import frozen
from ..errors import InputError, OptionError
from ..files.arrays import read_npy, read_npz
from ..renamed import former_fields
from ..system import reading
from .memory import check_room

#: Shape of one sample of an input, without the batch axis: (C, H, W) for images. None: any size.
SampleShape = tuple[int | None, ...]
Batch = dict[str, NDArray[np.float32]]

#: Samples that are kept where the user does not say how many.
DEFAULT_LIMIT = 256
DEFAULT_BATCH = 8


@former_fields(kind="source_type")
@dataclass(frozen=True)
class Provenance:
    """Where inputs come from, as a plan records it.

    Attributes:
        source_type: "images", "data", "arrays" or "synthetic".
        source: what the user named: a folder, a file, a pattern; "" for arrays in memory.
        options: how samples were made of the source, as plain JSON values.
        skipped: (name, reason) of everything that could not be used.
        notes: what was assumed or left out; callers show each to the user.
        warnings: those that must not be overlooked.
        preprocessing: how pixels became values and where that was found, by input, as plain JSON values;
            empty where the values go in as they are.
    """

    source_type: str
    source: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    preprocessing: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def assumed(self) -> bool:
        """Whether a preprocessing is an assumption."""
        return any(one["assumed"] for one in self.preprocessing.values())

    @property
    def color(self) -> str | None:
        """Order of the channels of images; None for inputs that were made of none."""
        said = [str(one["color"] or one["likely_color"]) for one in self.preprocessing.values()]
        return next(iter(said), None)

    @property
    def lines(self) -> tuple[str, ...]:
        """Warnings and notes as lines of text."""
        return (*(f"warning: {one}" for one in self.warnings), *self.notes)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples for every input of a net. Iterating gives batches, as often as one likes, always the same.

    Attributes:
        arrays: input name -> (N, *shape) float32, the same N for all; read-only.
        provenance: where they come from.
        batch: samples per batch; the last batch may be smaller.
        largest: most samples that the network takes together, see `batches`; None for any number.
    """

    arrays: Mapping[str, NDArray[np.float32]]
    provenance: Provenance
    batch: int = DEFAULT_BATCH
    largest: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise OptionError(f"a batch holds at least one sample, got {self.batch}")
        counts = {name: len(array) for name, array in self.arrays.items()}
        if len(set(counts.values())) != 1:
            raise InputError(f"every input needs the same number of samples, got {counts}")
        if not self.count:
            raise InputError("there is not a single sample")
        held = {name: frozen(np.asarray(array, np.float32)) for name, array in self.arrays.items()}
        object.__setattr__(self, "arrays", MappingProxyType(held))

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values()))) if self.arrays else 0

    @property
    def values_per_sample(self) -> int:
        """Values of all inputs of one sample."""
        return sum(math.prod(array.shape[1:]) for array in self.arrays.values())

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(self.count / self.batch)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.count, self.batch):
            yield {name: array[start : start + self.batch] for name, array in self.arrays.items()}

    def batched(self, size: int) -> Inputs:
        """The same samples in batches of `size`, or of as many as the network takes."""
        return replace(self, batch=min(size, self.largest or size))

    def noted(self, note: str) -> Inputs:
        """The same samples, with something more to be known of them."""
        origin = replace(self.provenance, notes=(*self.provenance.notes, note))
        return replace(self, provenance=origin)

    def take(self, rows: Sequence[int] | slice) -> Inputs:
        """Some of the samples, by position; for a held-out part, say."""
        index = rows if isinstance(rows, slice) else list(rows)
        return replace(self, arrays={name: array[index] for name, array in self.arrays.items()})

    def only(self, names: Iterable[str]) -> Inputs:
        """The same samples for some of the inputs."""
        return replace(self, arrays={name: self.arrays[name] for name in names if name in self.arrays})

    def and_also(self, other: Inputs, note: str) -> Inputs:
        """These samples and then those of `other`, which has the same inputs; `note` says what they are."""
        both = {name: np.concatenate([array, other.arrays[name]]) for name, array in self.arrays.items()}
        origin = replace(
            self.provenance,
            options={**self.provenance.options, "also": other.provenance.source, **{
                f"also_{key}": value for key, value in other.provenance.options.items()
            }},
            notes=(*self.provenance.notes, note),
        )  # fmt: skip
        return replace(self, arrays=both, provenance=origin)

    def digest(self) -> str:
        """sha256 over names, shapes and values of all samples."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256()
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name], "<f4")
            sha.update(f"{name}{array.shape}".encode())
            sha.update(array.data)
        return sha.hexdigest()

    def record(self) -> dict[str, object]:
        """What a plan stores about the inputs, as plain JSON values."""
        origin = self.provenance
        return {
            "source_type": origin.source_type,
            "source": origin.source,
            "count": self.count,
            "shapes": {name: list(array.shape[1:]) for name, array in self.arrays.items()},
            "sha256": self.digest(),
            "options": dict(origin.options),
            "preprocessing": {name: dict(one) for name, one in origin.preprocessing.items()},
            "skipped": [list(pair) for pair in origin.skipped],
            "notes": list(origin.notes),
        }


def load_data(
    path: str | Path,
    shapes: Mapping[str, SampleShape],
    *,
    limit: int | None = None,
    memory: int | None = None,
) -> Inputs:
    """Read samples from a `.npy` or `.npz` file; the values go into the net as they are.

    Args:
        path: `.npy` with one array (N, *shape) for a net with one input; `.npz` with one array per input, by
            its name (any name where the net has one input).
        shapes: input name -> shape of a sample.
        limit: use only the first so many samples.
        memory: bytes that samples may take; None for a fraction of what is free.

    Raises:
        InputError: the file is missing, too large, not such a file, or does not fit the net's inputs.
    """
    path = Path(path)
    with reading(path, "an array (.npy, .npz)", error=InputError), path.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic == b"\x93NUMPY":
            loaded: Any = read_npy(path, limit, partial(check_room, path, memory))
        elif magic[:4] == b"PK\x03\x04":
            loaded = read_npz(path, limit, partial(check_room, path, memory))
        else:
            raise InputError(
                f"{path}: not a .npy or .npz file (for images, give a folder or a list of images)"
            )
    if isinstance(loaded, dict) and len(loaded) == len(shapes) == 1:
        loaded = next(iter(loaded.values()))
    named = {
        name: array if limit is None or not array.ndim else array[:limit]
        for name, array in _by_name(loaded, shapes, str(path)).items()
    }
    check_room(path, memory, sum(4 * array.size for array in named.values()))  # as float32
    with reading(path, "an array", error=InputError):
        arrays = {name: _checked(array, shapes[name], f"{path}: {name}") for name, array in named.items()}
    options: dict[str, object] = {} if limit is None else {"limit": limit}
    return Inputs(arrays, Provenance("data", str(path), options))


def from_arrays(
    items: object, shapes: Mapping[str, SampleShape], *, limit: int | None = DEFAULT_LIMIT
) -> Inputs:
    """Take samples from arrays in memory; the values go into the net as they are.

    Args:
        items: one array (N, *shape), a dict of such arrays by input name, or any iterable of arrays or dicts
            of arrays, each one sample (*shape) or a batch (N, *shape). Torch tensors will do, and a loader
            of (input, label) pairs; a net with several inputs gets the first so many of a tuple, in its
            order; of a dict what the net has no input for, such as labels, is left out. A generator is read
            once and kept. Samples that differ in size are cut to the smallest.
        shapes: input name -> shape of a sample.
        limit: stop after so many samples; None takes all.

    Raises:
        InputError: an item does not fit the net's inputs, or there is none.
    """
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in shapes}
    taken = 0
    notes: list[str] = []
    single = hasattr(items, "shape") or isinstance(items, Mapping)
    if not single and not isinstance(items, Iterable):
        raise InputError(f"inputs must be arrays or an iterable of arrays, got {type(items).__name__}")
    sequence: Iterable[Any] = (items,) if single else items  # type: ignore[assignment]
    for position, item in enumerate(sequence):
        if limit is not None and taken >= limit:  # there is one more
            notes.append(_limited(limit))
            break
        where = "the given array" if single else f"input {position}"
        item = _without_labels(item, shapes)  # noqa: PLW2901
        notes += [] if position else _left_out(item, shapes)
        named = {
            name: _checked(array, shapes[name], f"{where}: {name}")
            for name, array in _by_name(item, shapes, where).items()
        }
        counts = {name: len(array) for name, array in named.items()}
        if len(set(counts.values())) != 1:
            raise InputError(f"{where}: every input needs the same number of samples, got {counts}")
        for name, array in named.items():
            parts[name].append(array)
        taken += next(iter(counts.values()))
        if limit is not None and taken > limit:
            notes.append(_limited(limit))
            break
    if not taken:
        raise InputError("there is not a single sample: the inputs are empty")
    arrays = {}
    for name, chunks in parts.items():
        same, note = _cut_alike(name, chunks)
        arrays[name] = np.concatenate(same)[:limit]
        notes += note
    return Inputs(arrays, Provenance("arrays", options={"limit": limit}, notes=tuple(notes)))


def _limited(limit: int) -> str:
    return f"the first {limit} samples are used; what follows is left out"


def _without_labels(item: Any, shapes: Mapping[str, SampleShape]) -> Any:
    """The part of an item that goes into the net: what stands first, where it is a tuple."""
    if not isinstance(item, (tuple, list)) or not item:
        return item
    if isinstance(item[0], Mapping):
        return item[0]
    if len(item) < len(shapes) or not all(hasattr(one, "shape") for one in item[: len(shapes)]):
        return item
    return item[0] if len(shapes) == 1 else dict(zip(shapes, item, strict=False))


def _left_out(item: Any, shapes: Mapping[str, SampleShape]) -> list[str]:
    """A note on what stands beside the inputs."""
    more = [str(name) for name in item if name not in shapes] if isinstance(item, Mapping) else []
    if not more or not set(shapes) <= set(item):
        return []
    return [f"{', '.join(more)}: left out, since the net's inputs are {', '.join(shapes)}"]


def _cut_alike(
    name: str, chunks: Sequence[NDArray[np.float32]]
) -> tuple[list[NDArray[np.float32]], list[str]]:
    """Samples of one size, the middle of images and the beginning of others; a note where they differ."""
    sizes = {chunk.shape[1:] for chunk in chunks}
    if len(sizes) == 1:
        return list(chunks), []
    least = tuple(map(min, zip(*sizes, strict=True)))
    images = len(least) > 2
    size, part = "x".join(map(str, least)), "middle" if images else "beginning"

    def cut(chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        found = chunk
        for axis, want in enumerate(least, start=1):
            start = (chunk.shape[axis] - want) // 2 if images else 0
            found = found.take(range(start, start + want), axis)
        return found

    note = f"{name}: samples differ in size; the {part} of each is used, {size}"
    return [cut(chunk) for chunk in chunks], [note]


def _by_name(item: Any, shapes: Mapping[str, SampleShape], where: str) -> dict[str, Any]:
    """Sort one item's arrays by input name."""
    if isinstance(item, Mapping):
        if set(shapes) <= set(item):
            return {name: item[name] for name in shapes}
        # A data set has a name of its own for the only input.
        large = [value for value in item.values() if len(getattr(value, "shape", ())) > 1]
        if len(shapes) == 1 and len(large) == 1:
            return {next(iter(shapes)): large[0]}
        raise InputError(
            f"{where}: arrays {sorted(map(str, item))}, but the net's inputs are {sorted(shapes)}"
        )
    if len(shapes) != 1:
        raise InputError(
            f"{where}: one array, but the net has the inputs {sorted(shapes)}: give one for each by name"
        )
    return {next(iter(shapes)): item}


def _checked(value: Any, shape: SampleShape, where: str) -> NDArray[np.float32]:
    """Return `value` as (N, *shape) float32, or say why it is not."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"values of type {array.dtype}")
        array = np.asarray(array, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: not an array of numbers ({error})") from error
    if array.ndim == len(shape):
        array = array[None]
    if not fits(array.shape[1:], shape):
        turned = array.ndim == 4 and fits((array.shape[3], *array.shape[1:3]), shape)
        hint = "; it looks like channels last: use array.transpose(0, 3, 1, 2)" if turned else ""
        raise InputError(f"{where}: shape {array.shape}, but the net takes {describe(shape)}{hint}")
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        raise InputError(f"{where}: sample {int(np.argmin(finite))} has values that are not finite")
    return array


def evenly(count: int, of: int) -> list[int]:
    """Indices of `count` samples that are spread evenly over all."""
    return [round((index + 0.5) * of / count - 0.5) for index in range(count)]


def fits(shape: Sequence[int], wanted: SampleShape) -> bool:
    """Whether a sample of `shape` can go into an input of shape `wanted`."""
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))


def describe(shape: SampleShape) -> str:
    """A batch's shape in words: "(N, 3, 224, 224)"; "any" for sizes that are free."""
    return f"({', '.join(['N', *('any' if size is None else str(size) for size in shape)])})"
