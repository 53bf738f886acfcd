"""The processes of one run, as `torchrun` starts them, each on its shard of every batch."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from .errors import InputError, OptionError, UsageError


@dataclass(frozen=True)
class Shard:
    """The part of every batch that one of several processes reads.

    Attributes:
        rank: number of the process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    def of(self, batch_size: int, where: str) -> range:
        """Positions in a batch.

        Raises:
            InputError: the batch cannot be shared evenly.
        """
        if batch_size % self.size:
            raise InputError(
                f"{where}: a batch of {batch_size} cannot be shared evenly by {self.size} processes; make "
                f"batch_size a multiple of {self.size}, or start another number of processes"
            )
        part = batch_size // self.size
        return range(self.rank * part, (self.rank + 1) * part)


@dataclass(frozen=True)
class World:
    """The processes of a training; one alone needs no other.

    Attributes:
        shard: number of this process and of all.
        device: where this one computes.
    """

    shard: Shard
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.shard.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.shard.size > 1

    def mean(self, *values: float) -> tuple[float, ...]:
        """The means of numbers over all processes."""
        if not self.several:
            return values
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return tuple((sums / self.shard.size).tolist())

    def gather(self, value: Any) -> list[Any]:
        """The values that all processes give, in the order of their numbers; they must pickle."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.shard.size
        distributed.all_gather_object(values, value)
        return values

    def share_buffers(self, net: nn.Module) -> None:
        """Give every process the first one's BatchNorm statistics."""
        if self.several:
            for buffer in net.buffers():
                distributed.broadcast(buffer, 0)

    def wrapped(self, module: nn.Module) -> nn.Module:
        """A module whose parameters get the mean of all processes' gradients; itself where it is alone."""
        if not self.several:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Every pass runs the same layers, and there may be some behind which there is no loss.
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, static_graph=True)


@contextmanager
def joined(device: str | None) -> Iterator[World]:
    """Within the context this process is one of those that `torchrun` started, or alone.

    No DistributedDataParallel may be in use any more where the context ends.

    Args:
        device: "cpu", "cuda" or "cuda:1"; None for a GPU where there is one.

    Raises:
        OptionError: there is no such device.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    place = _device(device, int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else None)
    if size == 1:
        yield World(Shard(), place)
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(Shard(distributed.get_rank(), size), place)
    finally:
        # What still holds the group when it is destroyed can abort the process at its very end.
        gc.collect()
        distributed.destroy_process_group()


def _device(name: str | None, local_rank: int | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is unknown; choose cpu, cuda or cuda:NUMBER") from error
    if device.type == "cuda" and local_rank is not None:
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"device {device} is not there: PyTorch finds {torch.cuda.device_count()} GPUs; choose cpu, or "
            "start no more processes than there are GPUs"
        )
    return device
