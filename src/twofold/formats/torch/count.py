"""Counting what a forward really computes: products with weights, by the layer or parameter that they use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


@dataclass(frozen=True)
class Product:
    """Products of one operation that no layer's own call computed.

    Attributes:
        module: name of the innermost module that ran.
        operation: what was computed, in words.
        weight: name of the parameter that was the weight; "" for one that was computed.
    """

    module: str
    operation: str
    weight: str


@dataclass
class Counted:
    """What one run computed; MACs over the whole batch.

    Attributes:
        layers: by name of a layer, MACs of its own calls, and of others with its weight.
        products: the rest.
        outside: by name of a layer, what used its weight or bias outside of its calls.
    """

    layers: dict[str, int] = field(default_factory=dict)
    products: dict[Product, int] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)


def _convolution(output: Tensor, args: tuple[Any, ...]) -> int:
    # Of a transposed one the whole kernel is multiplied with every input position, else with every output's.
    positions = args[0] if args[6] else output
    return int(positions.numel() // max(positions.shape[1], 1) * args[1].numel())


def _matrix(first: int, output: Tensor, args: tuple[Any, ...]) -> int:
    return output.numel() * int(args[first].shape[-1])


def _recurrent(output: tuple[Tensor, ...], args: tuple[Any, ...]) -> int:
    return int(math.prod(args[0].shape[:2]) * (args[1].numel() + args[2].numel()))


@dataclass(frozen=True)
class _Operation:
    """How an operation is counted.

    Attributes:
        name: in words.
        macs: of its output and arguments.
        operands: positions of what may be the weight.
        weighted: whether it counts only where an operand is a parameter; else it is a product of activations,
            such as attention.
    """

    name: str
    macs: Callable[[Any, tuple[Any, ...]], int]
    operands: tuple[int, ...]
    weighted: bool = False


_OPERATIONS: Mapping[Any, _Operation] = {
    aten.convolution: _Operation("convolution", _convolution, (1,)),
    aten._convolution: _Operation("convolution", _convolution, (1,)),
    aten.mm: _Operation("matrix product", partial(_matrix, 0), (0, 1)),
    aten.addmm: _Operation("matrix product", partial(_matrix, 1), (1, 2)),
    aten.mv: _Operation("matrix product", partial(_matrix, 0), (0, 1), True),
    aten.bmm: _Operation("matrix product", partial(_matrix, 0), (0, 1), True),
    aten.baddbmm: _Operation("matrix product", partial(_matrix, 1), (1, 2), True),
    aten.mkldnn_rnn_layer: _Operation("recurrent layer", _recurrent, (1, 2)),
}


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it is on, as `torch.utils.flop_counter` does, and notes whose weights are used.

    Args:
        module: the module that will run; hooks are put on the modules in it.
        layers: by name of each layer, its modules.
    """

    def __init__(self, module: nn.Module, layers: Mapping[str, tuple[nn.Module, ...]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted = Counted()
        self._running: list[tuple[str, str | None]] = []
        # Views of a parameter are its storage; names of tensors do not reach what is dispatched.
        self._parameters: dict[int, str] = {}
        self._owners: dict[int, str] = {}
        for name, parameter in module.named_parameters():
            self._parameters.setdefault(_key(parameter), name)
        of_module = {id(one): name for name, modules in layers.items() for one in modules}
        for name, modules in layers.items():
            for one in modules:
                for parameter in one.parameters(recurse=False):
                    self._owners[_key(parameter)] = name
        for name, one in module.named_modules():
            if not isinstance(one, torch.jit.ScriptModule):
                entry = (name, of_module.get(id(one)))
                one.register_forward_pre_hook(partial(self._enter, entry))
                one.register_forward_hook(self._leave, always_call=True)

    def _enter(self, entry: tuple[str, str | None], *_: Any) -> None:
        self._running.append(entry)

    def _leave(self, *_: Any) -> None:
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation."""
        kwargs = kwargs or {}
        packet = func._overloadpacket
        operation = _OPERATIONS.get(packet)
        if operation is None and func._can_decompose() and packet not in (aten.detach, aten.alias):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        layer = next((one for _, one in reversed(self._running) if one is not None), None)
        if operation is not None:
            self._count(operation, result, args, layer)
        for tensor in _tensors(args):
            owner = self._owners.get(_key(tensor))
            if owner is not None and owner != layer:
                where = self._running[-1][0] if self._running else ""
                self.counted.outside.setdefault(owner, f"{packet.__name__} in {where or 'forward'}")
        return result

    def _count(self, operation: _Operation, result: Any, args: tuple[Any, ...], layer: str | None) -> None:
        keys = [_key(args[index]) for index in operation.operands]
        weight = next((self._parameters[key] for key in keys if key in self._parameters), "")
        if operation.weighted and not weight and layer is None:
            return
        macs = operation.macs(result, args)
        owner = layer or next((self._owners[key] for key in keys if key in self._owners), None)
        if owner is not None:
            self.counted.layers[owner] = self.counted.layers.get(owner, 0) + macs
            return
        product = Product(self._running[-1][0] if self._running else "", operation.name, weight)
        self.counted.products[product] = self.counted.products.get(product, 0) + macs


@contextmanager
def counting(module: nn.Module, layers: Mapping[str, tuple[nn.Module, ...]]) -> Iterator[Counted]:
    """Count what is run within the context; the module keeps hooks, so it should be a copy."""
    counter = Counter(module, layers)
    with counter:
        yield counter.counted


def _tensors(args: Any) -> Iterator[Tensor]:
    for one in args:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (tuple, list)):
            yield from _tensors(one)


def _key(tensor: Tensor) -> int:
    """What a tensor and its views have in common."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError, ValueError):  # lazy parameters, and tensors without a storage
        return id(tensor)
