"""The batches of a whole net, prepared ahead of their use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import TracebackType

import torch
from torch import Tensor

from ...conv import Size
from ...distributed import Shard
from .reader import Reader

#: Batches that are ready or in work; Caffe's default is 4.
_AHEAD = 4


class Batches:
    """Gives the batches of a net by their numbers, as tensors by the names of blobs."""

    def __init__(self, readers: Sequence[Reader], shard: Shard | None = None) -> None:
        self._readers, self._shard = tuple(readers), shard
        # One thread, as items of a reader are fetched one after the other; decoding has more.
        self._worker = ThreadPoolExecutor(1, "twofold-data")
        self._decoders = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "twofold-decode")

    def shapes(self) -> dict[str, Size]:
        """Shapes of all blobs, for the whole batch."""
        shapes: dict[str, Size] = {}
        for reader in self._readers:
            alone = reader.batch(0, Shard(0, reader.items.batch_size))
            shapes.update({top: (reader.items.batch_size, *array.shape[1:]) for top, array in alone.items()})
        return shapes

    def over(self, numbers: Iterable[int]) -> Generator[dict[str, Tensor], None, None]:
        """The batches of these numbers; a few are prepared ahead.

        Raises:
            InputError: an item cannot be read, or the batch cannot be shared.
        """
        coming = iter(numbers)
        waiting = deque(self._worker.submit(self._prepare, number) for number in islice(coming, _AHEAD))
        try:
            while waiting:
                future = waiting.popleft()
                waiting.extend(self._worker.submit(self._prepare, number) for number in islice(coming, 1))
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()

    def _prepare(self, number: int) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        for reader in self._readers:
            arrays = reader.batch(number, self._shard, self._decoders)
            batch.update({top: torch.from_numpy(array) for top, array in arrays.items()})
        return batch

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown()
        self._decoders.shutdown()
