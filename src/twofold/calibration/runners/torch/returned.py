"""The tensors in what a forward returns, and what they are read out of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from ....errors import OptionError
from ....formats.torch.outputs import flat
from ..readout import TORCH as READOUT


class Sources(TorchFunctionMode):
    """Notes of what each result of a function in `READOUT` was made, as long as the result lives."""

    def __init__(self) -> None:
        super().__init__()
        self.of: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in READOUT and args and isinstance(args[0], Tensor):
            for one in result if isinstance(result, tuple) else (result,):
                self.of[one] = (name, args[0])
        return result


@dataclasses.dataclass(frozen=True, eq=False)
class Values:
    """What a forward returned.

    Attributes:
        values: tensors of numbers by name, and those that they are read out of.
        network_outputs: names of what was returned.
        read: names of what that is read out of.
    """

    values: Mapping[str, Tensor]
    network_outputs: tuple[str, ...]
    read: tuple[str, ...]

    @classmethod
    def of(cls, result: Any, sources: Sources) -> Values:
        """Flatten what was returned, whatever it is nested in."""
        values = flat(result)
        ends = tuple(values)
        read: dict[str, None] = {}
        for name in ends:
            tensor, own = values[name], name
            while tensor in sources.of:
                function, tensor = sources.of[tensor]
                own = f"{name} before {function}"
            if tensor.is_floating_point():
                values[own] = tensor
                read[own] = None
        return cls(values, ends, tuple(read))


def checked(names: tuple[str, ...], found: Values) -> tuple[str, ...]:
    for name in names:
        if name not in found.values:
            raise OptionError(
                f"forward returns no {name!r} to protect, only {', '.join(found.network_outputs)}, and no "
                "module of that name gives a tensor"
            )
    return names
