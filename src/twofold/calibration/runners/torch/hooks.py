"""What modules are given and give while a network runs, and other forwards in their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ....formats.torch.convolution import adapter_for

Forward = Callable[..., Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Use:
    """One call of a convolution."""

    layer: str
    input: NDArray[np.float32]
    output: Tensor
    module: nn.Module


class Recorder:
    """Notes what convolutions are given, and what they give where gradients are wanted of it."""

    def __init__(self, modules: Mapping[str, Sequence[nn.Module]], differentiate: bool) -> None:
        self.uses: list[Use] = []
        self._modules, self._differentiate = modules, differentiate

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = [
            module.register_forward_hook(partial(self._note, name), with_kwargs=True)
            for name, modules in self._modules.items()
            for module in modules
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(
        self,
        name: str,
        module: nn.Module,
        given: tuple[Tensor, ...],
        named: Mapping[str, Tensor],
        output: Tensor,
    ) -> Tensor | None:
        tensor = given[0] if given else named["input"]
        images = adapter_for(module).images(module, tensor)
        if not self._differentiate:
            self.uses.append(Use(name, array_of(images), output, module))
            return None
        if not output.requires_grad and torch.is_grad_enabled():
            output.requires_grad_()
        self.uses.append(Use(name, array_of(images), output, module))
        # What follows may work in place, which would turn `output` into something else.
        return output.clone()


class Tape:
    """What every call of every convolution gave, in order."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = modules
        self._calls: list[tuple[nn.Module, Tensor]] = []

    def recording(self) -> dict[nn.Module, Forward]:
        def forward(module: nn.Module, original: Forward, *args: Any, **kwargs: Any) -> Tensor:
            output = original(*args, **kwargs)
            self._calls.append((module, output.clone()))  # what follows may work in place
            return output

        return {module: partial(forward, module, module.forward) for module in self._modules}

    def first_call(self, modules: Sequence[nn.Module]) -> int:
        return next(i for i, (module, _) in enumerate(self._calls) if any(module is one for one in modules))

    def replaying(self, first: int, changed: Mapping[nn.Module, Forward]) -> dict[nn.Module, Forward]:
        """Forwards that give what was recorded up to the call `first`, and compute from there."""
        calls = 0

        def forward(compute: Forward, *args: Any, **kwargs: Any) -> Tensor:
            nonlocal calls
            calls += 1
            return self._calls[calls - 1][1].clone() if calls <= first else compute(*args, **kwargs)

        return {module: partial(forward, changed.get(module, module.forward)) for module in self._modules}


@contextmanager
def forwards_of(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Within the context modules compute something else."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


def array_of(tensor: Tensor) -> NDArray[np.float32]:
    # A copy: what follows may work in place.
    return np.array(tensor.detach().to("cpu", torch.float32).numpy())
