"""Outputs of PyTorch modules whose size depends on values, and the last modules of fixed size before them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ..readout import TORCH as READOUT

#: Operators whose results have as many values as their inputs' values say.
_BY_VALUE = frozenset(
    ["nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "nms"]
)
#: Operators whose result is of the first argument's size, whatever the others are.
_OF_FIRST = frozenset(["index_put", "index_put_", "_index_put_impl_", "masked_fill", "masked_fill_", "copy_"])


class _Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which tensors have a size that depends on values, and which modules' results each is made of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.varying: Any = WeakIdKeyDictionary()
        self.origins: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name().partition("::")[2].partition(".")[0]
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        sized = given[:1] if name in _OF_FIRST else given
        by_mask = name == "index" and any(one.dtype in (torch.bool, torch.uint8) for one in given[1:])
        varies = name in _BY_VALUE or by_mask or any(one in self.varying for one in sized)
        origins = {origin: None for one in given for origin in self.origins.get(one, ())}
        for one in tree_leaves(result):
            if isinstance(one, Tensor):
                if varies:
                    self.varying[one] = True
                self.origins[one] = {**self.origins.get(one, {}), **origins}
        return result

    def leave(self, name: str, output: Any) -> None:
        """Note what a module gave, where that is of fixed size."""
        for one in tree_leaves(output):
            if isinstance(one, Tensor) and one.is_floating_point() and one not in self.varying:
                self.origins[one] = {name: None}


def varying_outputs(
    module: nn.Module, call: Callable[[], Mapping[str, Tensor]]
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Run a module once.

    Args:
        module: the module.
        call: runs it and gives its outputs by name.

    Returns:
        The names of outputs whose size depends on values, and of the modules whose results of fixed size are
        the last before them, as `recorded` names them.
    """
    sizes = _Sizes()

    def note(name: str, output: Any) -> None:
        sizes.leave(name, output)

    with torch.no_grad(), sizes, watched(module, _leaves(module), note):
        outputs = dict(call())
    names = [name for name, tensor in outputs.items() if tensor in sizes.varying]
    before = {origin: None for name in names for origin in sizes.origins.get(outputs[name], ())}
    return frozenset(names), tuple(before)


def _leaves(module: nn.Module) -> Iterator[str]:
    """Modules without others inside, but those that only read out what they are given, and scripted ones.

    The last take no hooks.
    """
    for name, inner in module.named_modules():
        leaf = name and not any(True for _ in inner.children())
        if (
            leaf
            and not isinstance(inner, torch.jit.ScriptModule)
            and type(inner).__name__.lower() not in READOUT
        ):
            yield name


def watched(module: nn.Module, names: Iterable[str], note: Callable[[str, Any], None]) -> ExitStack:
    """Within the context every result of some modules is noted: "head" for the first call, then "head#2"."""
    stack, counts = ExitStack(), dict[str, int]()

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def noted(_: nn.Module, given: Any, output: Any) -> None:
            counts[name] = counts.get(name, 0) + 1
            note(name if counts[name] == 1 else f"{name}#{counts[name]}", output)

        return noted

    for name in names:
        stack.callback(module.get_submodule(name).register_forward_hook(hook(name)).remove)
    return stack
