"""How modules are run here: eagerly, with nothing computed twice, and the random state as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils import checkpoint


class _Through:
    """Stands for the autograd function of reentrant checkpoints: it just computes."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve: bool, *args: Any) -> Any:
        return function(*args)


def _nothing(*_args: Any, **_kwargs: Any) -> Iterator[None]:
    """Stands for what surrounds a function that is checkpointed without reentrance."""
    yield


_INSTEAD = {"CheckpointFunction": _Through, "_checkpoint_without_reentrant_generator": _nothing}


@contextmanager
def eagerly() -> Iterator[None]:
    """Within the context modules compute what they compute, and nothing else.

    Checkpoints compute a part of the forward again behind our hooks, compiled modules would be compiled anew
    for each of our copies, and fused attention hides its projections from whoever counts.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(mock.patch.object(checkpoint, "CheckpointFunction", _Through))
        stack.enter_context(
            mock.patch.object(checkpoint, "_checkpoint_without_reentrant_generator", _nothing)
        )
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def same_randomness() -> Iterator[None]:
    """Within the context every run draws the same; afterwards the random state is as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
