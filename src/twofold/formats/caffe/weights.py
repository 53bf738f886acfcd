"""What a file of Caffe weights offers, protobuf or HDF5: layers of blobs, edits by name, a stream out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...conv import Array, ConvGeometry
from ...errors import ModelError
from ...files.source import Source

Float32 = NDArray[np.float32]


class Blob(ABC):
    """One array of weights in a file; nothing is decoded before it is asked for."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape as the file gives it; four numbers where it uses the legacy dimensions.

        Raises:
            FormatError: The dimensions are impossible or contradict one another.
        """

    @property
    @abstractmethod
    def encoding(self) -> str:
        """How the values are stored, e.g. "packed float32"."""

    @abstractmethod
    def check(self) -> None:
        """Check that shape and number of values agree, without decoding.

        Raises:
            FormatError: They do not.
        """

    @abstractmethod
    def array(self) -> Float32:
        """The values as a read-only float32 array of `shape`, as Caffe has them after loading.

        A view of the mapped file where it holds packed float32. Such a view may be unaligned; numpy and scipy
        cope with that, code that takes raw pointers must copy first.

        Raises:
            FormatError: The blob is damaged.
        """

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether Caffe loads this blob into a parameter of `shape`: equal shapes, no broadcasting."""
        return self.shape == tuple(shape)


@dataclass(frozen=True, eq=False)
class WeightsLayer:
    """One entry of a weights file.

    Attributes:
        name: the layer's name, the only thing by which Caffe finds it. Bytes that are not UTF-8 are lone
            surrogates: `name.encode("utf-8", "surrogateescape")` gives them back.
        type: type as the file has it: text, a number in V1 files, "" where there is none. It may be wrong.
        blobs: its arrays.
        bottoms: input blobs, where the file stores the net.
        tops: output blobs, where the file stores the net.
    """

    name: str
    type: str | int
    blobs: tuple[Blob, ...]
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class NewWeights:
    """One of the layers that take the place of another in a weights file.

    Attributes:
        name: its name.
        blobs: its arrays, the bias last; each is written in the encoding of the old blob of its index, but
            never rounded to half precision: as float32, where the values are not halves.
        bottoms: its inputs, where the file stores the net; the first of a stack keeps the original's.
        tops: its outputs; the last of a stack keeps the original's.
        geometry: written into the convolution parameters, where the file stores them; None keeps them.
        type: V2 name of its type, where that is another than the layer's that it comes from; "" for the same.
    """

    name: str
    blobs: Sequence[Array]
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    geometry: ConvGeometry | None = None
    type: str = ""


@dataclass(frozen=True, eq=False)
class NewLayer:
    """A layer of a weights file that is made from scratch.

    Attributes:
        name: its name.
        type: V2 type name, as "Convolution".
        blobs: its arrays.
        bottoms: names of its input blobs.
        tops: names of its output blobs.
    """

    name: str
    type: str
    blobs: Sequence[Array] = ()
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()


class WeightsFile(ABC):
    """A file of weights, or an edited one that is not written yet.

    Attributes:
        path: where it came from, None for one made from scratch; for messages.
        version: "V0", "V1", "V2" (protobuf, by the age of the net's format) or "HDF5".
        layers: all entries in the file's order; a name may occur more than once.
        source: the file as it was read, None for one made from scratch.
    """

    def __init__(
        self,
        path: Path | None,
        version: str,
        layers: Iterable[WeightsLayer],
        source: Source | None = None,
    ) -> None:
        self.path, self.source = path, source
        self.version = version
        self.layers = tuple(layers)
        by_name: dict[str, list[WeightsLayer]] = {}
        for layer in self.layers:
            by_name.setdefault(layer.name, []).append(layer)
        self._by_name = by_name

    def layer(self, name: str) -> WeightsLayer | None:
        """The entry whose weights a net has after loading, or None: the last, as Caffe copies one by one."""
        found = self._by_name.get(name)
        return found[-1] if found else None

    def entries(self, name: str) -> tuple[WeightsLayer, ...]:
        """All entries of a name. Caffe rejects the file if any of them does not fit the net."""
        return tuple(self._by_name.get(name, ()))

    def check(self, names: Collection[str] | None = None) -> None:
        """Check every blob of the named entries, or of all.

        Give the names of the net's layers: Caffe never looks into entries that the net does not have, so a
        damaged blob there does no harm.

        Raises:
            FormatError: The first damaged blob.
        """
        for layer in self.layers:
            if names is None or layer.name in names:
                for blob in layer.blobs:
                    blob.check()

    @abstractmethod
    def replace(self, replacements: Mapping[str, Sequence[NewWeights]]) -> WeightsFile:
        """Put new layers in the place of old ones.

        All entries of each name are replaced. Everything else stays: in protobuf files every other byte, in
        the new entries the unknown fields and the order of the fields. Stored gradients of a replaced layer
        are dropped, they belong to weights that are gone.

        Args:
            replacements: layer name -> the layers that take its place, in order.

        Raises:
            ModelError: A name that the file does not have, or a value that the file's encoding cannot hold.
        """

    @abstractmethod
    def write(self, stream: BinaryIO) -> None:
        """Write the file to `stream`, piece by piece. Equal content gives equal bytes.

        Args:
            stream: opened for writing; an HDF5 file needs one that can also be read and sought.
        """

    def _reject_unknown(self, replacements: Mapping[str, Sequence[NewWeights]]) -> None:
        for name, stack in replacements.items():
            if not stack:
                raise ValueError(f"Bug: nothing to put in the place of {name}")
            if name not in self._by_name:
                raise ModelError(f"{self.path}: no weights of a layer {name!r} to replace")
