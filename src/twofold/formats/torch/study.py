"""A look before the long work: what its layers are called with, what they cost, what must stay."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...conv import Size, Skipped
from .copies import copied, evaluated
from .count import Counted, Product, counting
from .detours import Detours, Places
from .groups import ROOT, Calls, Group, find_groups
from .inputs import Arguments
from .layer_types import adapter_of
from .outputs import flat
from .running import same_randomness


def study(module: nn.Module, arguments: Arguments, synthetic: str = "") -> Calls:
    """Run copies of a module, and see what it does with its layers.

    Args:
        module: stays as it is.
        arguments: what forward gets.
        synthetic: the shape of arguments that nobody gave, in words; sizes and costs are not known then.

    Raises:
        InputError: it does not run.
        ModelError: it cannot be copied, or put into evaluation.
    """
    copy = copied(module)
    groups = find_groups(copy)
    seen = _Seen(copy)
    layers = {group.name: tuple(one for one, _ in group.modules) for group in groups}
    with torch.no_grad(), same_randomness(), counting(evaluated(copy), layers) as counted:
        outputs = flat(arguments.call(copy))
    batch = 1 if seen.unbatched else _batch((*arguments.positional, *arguments.named.values()))
    may = [
        group.name
        for group in groups
        if group.reason is None
        and group.name not in counted.outside
        and all(names[0] in seen.calls and names[0] not in seen.more for _, names in group.modules)
    ]
    detours = Detours(lambda: _again(module), arguments, outputs)
    reasons = {
        name: f"its weight is used outside of its calls ({how})" for name, how in counted.outside.items()
    }
    return Calls(
        sizes={name: seen.sizes(name, batch) for name in seen.calls},
        runs={name: seen.runs(name, batch) for name in seen.calls},
        more=frozenset(seen.more),
        macs={name: Fraction(macs, batch) for name, macs in counted.layers.items()},
        elsewhere={**reasons, **detours.reasons(may)},
        others=tuple(_others(copy, groups, counted, None if synthetic else batch)),
        synthetic=synthetic,
    )


def _again(module: nn.Module) -> tuple[nn.Module, Places]:
    copy = copied(module)
    return copy, {group.name: group.modules for group in find_groups(copy)}


class _Seen:
    """What the layers of a module are called with."""

    def __init__(self, module: nn.Module) -> None:
        self.calls: dict[str, list[torch.Size]] = {}
        self.more: set[str] = set()
        self.unbatched = False
        self._modules: dict[str, nn.Module] = {}
        for name, one in module.named_modules():
            if adapter_of(one) is not None and not isinstance(one, torch.jit.ScriptModule):
                self._modules[name] = one
                one.register_forward_pre_hook(partial(self._note, name), with_kwargs=True)

    def _note(self, name: str, module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        tensor, *more = (*given, *named.values()) if given else named.values()
        if any(value is not None for value in more):
            self.more.add(name)
        if not self.calls:
            weight = getattr(module, "weight", None)
            self.unbatched = isinstance(weight, Tensor) and tensor.dim() == weight.dim() - 1
        self.calls.setdefault(name, []).append(tensor.shape)

    def sizes(self, name: str, batch: int) -> tuple[Size, ...]:
        """Spatial size of the input of every call."""
        adapter, module = adapter_of(self._modules[name]), self._modules[name]
        assert adapter is not None, "Bug: a module that is no layer was noted"
        return tuple(adapter.size(module, _empty(shape), batch) for shape in self.calls[name])

    def runs(self, name: str, batch: int) -> tuple[Fraction, ...]:
        """How often each call runs per image."""
        adapter, module = adapter_of(self._modules[name]), self._modules[name]
        assert adapter is not None, "Bug: a module that is no layer was noted"
        return tuple(adapter.runs(module, _empty(shape), batch) for shape in self.calls[name])


def _empty(shape: torch.Size) -> Tensor:
    return torch.empty(shape, device="meta")


def _batch(values: Iterable[Any]) -> int:
    """Images in a call: along the first axis of the first tensor, or as many as there are in a list."""
    for value in values:
        if isinstance(value, Tensor) and value.dim() > 0:
            return max(value.shape[0], 1) if value.dim() > 1 or not value.is_floating_point() else 1
        if isinstance(value, Mapping):
            return _batch(value.values())
        if isinstance(value, (list, tuple)) and value and all(isinstance(one, Tensor) for one in value):
            return len(value)
    return 1


def _others(
    module: nn.Module, groups: Sequence[Group], counted: Counted, batch: int | None
) -> Iterator[Skipped]:
    """What is computed with weights, and by no layer."""
    taken = {name for group in groups for name in group.names}
    parameters, modules = dict(module.named_parameters()), dict(module.named_modules())
    scripted = [name for name, one in modules.items() if isinstance(one, torch.jit.ScriptModule)]
    products = dict(counted.products)
    ran = {product.weight for product in products}
    for name, parameter in parameters.items():  # of a scripted module that never ran, too
        if _inside(name, scripted) and parameter.dim() > 1 and name not in ran:
            products[Product(name.rpartition(".")[0], "", name)] = 0
    params_of = {name: parameter.numel() for name, parameter in parameters.items()}
    for product, macs in products.items():
        name = product.weight or product.module or ROOT
        while name in taken:
            name += "'"
        taken.add(name)
        yield Skipped(
            name, _why(product, type(modules[product.module]).__name__, scripted), None,
            None if batch is None else round(Fraction(macs, batch)), params_of.pop(product.weight, 0),
        )  # fmt: skip


def _inside(name: str, holders: Collection[str]) -> bool:
    return any(not holder or name.startswith(f"{holder}.") for holder in holders)


def _why(product: Product, owner: str, scripted: Collection[str]) -> str:
    if _inside(product.weight, scripted) and product.weight:
        return "is inside a scripted module, which is not decomposed; give the module that it was made from"
    if product.weight:
        return f"{owner} computes this {product.operation} by itself, not by a layer that could be replaced"
    return f"{owner} computes a {product.operation} by itself, with a weight that it computes as well"
