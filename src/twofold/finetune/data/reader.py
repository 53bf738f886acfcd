"""The batches of one data layer, each a function of its number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...distributed import Shard
from ...errors import InputError
from .chance import Chance

Array = NDArray[Any]


class Items(ABC):
    """What a data layer reads from, item by item.

    Attributes:
        batch_size: items per batch.
        shuffle: whether every epoch has an order of its own.
        skip: at most so many items are left out at the beginning, a random number below this one; 0 for none.
        slow: whether `decode` is worth a thread.
    """

    batch_size: int = 1
    shuffle: bool = False
    skip: int = 0
    slow: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Number of items."""

    @abstractmethod
    def fetch(self, index: int) -> Any:
        """What is stored for an item; never called by two threads at once."""

    @abstractmethod
    def decode(self, stored: Any, draw: Callable[[], np.random.Generator]) -> Sequence[Array]:
        """The item's arrays, one per top; may be called by several threads at once.

        Args:
            stored: from `fetch`.
            draw: gives the generator of this item, if it needs one.
        """

    def order(self, rng: np.random.Generator) -> Array:
        """An order of all items for one epoch."""
        return rng.permutation(len(self))


class Reader:
    """A data layer's batches. Items follow one another over the end of an epoch, as in Caffe.

    Attributes:
        tops: names of the blobs.
        items: what is read.
        label: what messages call the layer.
    """

    def __init__(self, tops: Sequence[str], items: Items, chance: Chance, label: str) -> None:
        self.tops, self.items, self.label = tuple(tops), items, label
        self._chance = chance
        if items.batch_size < 1:
            raise InputError(f"{label}: batch_size is {items.batch_size}; it must be at least 1")
        if not len(items):
            raise InputError(f"{label}: its source is empty; there is nothing to train or test with")
        self._first = int(chance.at("skip", 0).integers(items.skip)) if items.skip else 0
        self._order = lru_cache(2)(lambda epoch: items.order(chance.at("order", epoch)))

    def batch(
        self, number: int, shard: Shard | None = None, pool: Executor | None = None
    ) -> dict[str, Array]:
        """A batch, float32, by the names of the tops.

        Args:
            number: which, from 0.
            shard: which part of it; None for all.
            pool: decodes slow items.

        Raises:
            InputError: an item cannot be read, or the items of the batch have different shapes.
        """
        size = self.items.batch_size
        places = (shard or Shard()).of(size, self.label)
        positions = [self._first + number * size + place for place in places]
        stored = [self.items.fetch(self._index(position)) for position in positions]
        spread = pool.map if pool is not None and self.items.slow else map
        rows = list(spread(self._decode, stored, positions))
        return {
            name: self._stacked(name, column)
            for name, column in zip(self.tops, zip(*rows, strict=True), strict=False)
        }

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.items))
        return int(self._order(epoch)[place]) if self.items.shuffle else place

    def _decode(self, stored: Any, position: int) -> Sequence[Array]:
        return self.items.decode(stored, lambda: self._chance.at("item", position))

    def _stacked(self, name: str, column: Sequence[Array]) -> Array:
        shapes = sorted({array.shape for array in column})
        if len(shapes) > 1:
            raise InputError(
                f"{self.label}: {name!r} has items of shapes {shapes[0]} and {shapes[1]} in one batch; give "
                "all one size (crop_size, or new_height and new_width), or a batch_size of 1"
            )
        return np.stack(column).astype(np.float32, copy=False)
