"""The processes of one run, as `torchrun` starts them, each on its shard of every batch."""

from __future__ import annotations

import gc
import itertools
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.rendezvous import rendezvous

from .errors import InputError, LostError, OptionError, RankError, UsageError

#: How long one process waits for another: as long as its work takes. One that ends is missed at once.
_PATIENCE = timedelta(days=7)
#: How long processes wait for all to begin.
_START = timedelta(minutes=5)


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
    place = device_of(device, int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else None)
    if size == 1:
        yield World(Shard(), place)
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    _begin("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(Shard(distributed.get_rank(), size), place)
    finally:
        # What still holds the group when it is destroyed can abort the process at its very end.
        gc.collect()
        distributed.destroy_process_group()


@dataclass(frozen=True, eq=False)
class Meeting:
    """See `ranks.Meeting`; through memory, since what is exchanged is not on a GPU.

    Attributes:
        group: of all processes.
        store: what the first to fail writes its reason to.
        members: machine, parent and number of every process, as the system has them.
        rank: number of this process.
    """

    group: Any
    store: Any
    members: tuple[tuple[str, int, int], ...]
    rank: int

    def exchange(self, value: Any) -> list[Any]:
        """See `ranks.Meeting`."""
        values: list[Any] = [None] * len(self.members)
        try:
            distributed.all_gather_object(values, value, group=self.group)
        except RuntimeError as error:  # a connection that the other side closed
            raise LostError from error
        return values

    def first_to_fail(self, reason: str) -> str | None:
        """See `ranks.Meeting`."""
        with suppress(RuntimeError):  # the process that had the store is gone
            if self.store.add("failed", 1) > 1:
                self.store.wait(["reason"], timedelta(seconds=30))
                return str(self.store.get("reason").decode())
            self.store.set("reason", reason)
        return None

    def missing(self, patience: float) -> str:
        """See `ranks.Meeting`; of other machines only that it is one of theirs can be known."""
        mine = self.members[self.rank][:2]
        near = [number for number, one in enumerate(self.members) if one[:2] == mine]
        end = time.monotonic() + patience
        while time.monotonic() < end:
            for number in near:
                if os.name == "posix" and not _runs(self.members[number][2]):
                    return f"rank {number} of {len(self.members)} processes"
            time.sleep(0.05)
        far = [(number, one[0]) for number, one in enumerate(self.members) if number not in near]
        return f"one of {', '.join(f'rank {number} on {host}' for number, host in far)}" if far else ""


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def meeting() -> Iterator[tuple[int, int, Meeting]]:
    """Number of this process, of all, and how they reach each other; within the context.

    A process group that the caller has stays as it is.

    Raises:
        RankError: not all processes come.
    """
    own = not distributed.is_initialized()
    try:
        store = _begin("gloo", _START) if own else distributed.distributed_c10d._get_default_store()
        group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        members: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(members, (socket.gethostname(), os.getppid(), os.getpid()), group=group)
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"the processes that torchrun started do not meet: {' '.join(str(error).split())[:200]}; all of "
            "them must make this call"
        ) from error
    rank = distributed.get_rank()
    try:
        yield rank, len(members), Meeting(group, _own_keys(store), tuple(members), rank)
    finally:
        # The others notice that this process fails when its connections close.
        gc.collect()
        with suppress(RuntimeError):
            distributed.destroy_process_group(None if own else group)


def _begin(backend: str, patience: timedelta | None = None) -> Any:
    """Begin the process group that `torchrun` describes; gives its store.

    `torchrun` keeps one store for a process's whole life: a second group must not find the addresses of the
    first.

    Args:
        backend: of the group.
        patience: how long processes wait for all to come, and for each other; None for what PyTorch sets.
    """
    found, rank, size = next(rendezvous("env://", timeout=patience or timedelta(minutes=30)))
    store = _own_keys(found)
    distributed.init_process_group(backend, timeout=patience, store=store, rank=rank, world_size=size)
    return store


def _own_keys(store: Any) -> Any:
    """A store whose keys are no others', the same in all processes that ask for as many."""
    return distributed.distributed_c10d.PrefixStore(f"twofold{next(_numbers)}", store)


_numbers = itertools.count()


def device_of(name: str | None, local_rank: int | None = None) -> torch.device:
    """The device of a name.

    Args:
        name: "cpu", "cuda" or "cuda:1"; None for a GPU where there is one.
        local_rank: number of this process on its machine, which then takes the GPU of that number.

    Raises:
        OptionError: there is no such device.
    """
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
