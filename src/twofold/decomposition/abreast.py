"""Layers that are worked on at the same time, in a thread each.

A fit is many steps on matrices of some hundred rows, in which threads of one product wait for one another:
two layers of one thread each take half the time of one layer of two threads after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from multiprocessing.pool import ThreadPool
from typing import TypeVar

from ..calibration.memory import SHARE, free_memory
from ..calibration.statistics import covariance_bytes
from ..conv import ConvLayer
from ..lowrank.spectra import one_thread, threads
from ..progress import ASIDE, track

T = TypeVar("T")
R = TypeVar("R")

#: More layers at a time take memory, and bring little where few layers take most of the time.
_MOST = 8
#: Of what the covariance of a layer takes, what a fit takes beside it.
_BESIDE = 3


def abreast(
    work: Callable[[T], R], items: Sequence[T], description: str, layers: Sequence[ConvLayer]
) -> Iterator[R]:
    """Results of work on independent items, in their order; as many at a time as threads and memory allow.

    Args:
        work: on one item; it may run in a thread of its own.
        items: best with the longest first.
        description: the stage, see `track`.
        layers: what the items are of; the largest tells how much memory a fit takes. None of them for one
            item at a time.
    """
    count = min(len(items), _at_a_time(layers))
    if count < 2:
        for item in track(items, description):
            yield work(item)
        return

    def aside(item: T) -> R:
        ASIDE.set(True)
        return work(item)

    with one_thread(), ThreadPool(count) as pool:
        found = pool.imap(lambda task: task[0].run(aside, task[1]), [(copy_context(), one) for one in items])
        for _ in track(items, description):
            yield next(found)


def _at_a_time(layers: Sequence[ConvLayer]) -> int:
    if not layers:
        return 1
    largest = max(covariance_bytes(layer.geometry) for layer in layers)
    return min(threads(), _MOST, max(int(SHARE * free_memory()) // (_BESIDE * largest), 1))
