"""The convolutions of a module: what shares a weight is one, changed together or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ...conv import ConvLayer, Size, Skipped
from .convolution import BITS, geometry, is_convolution, refusal, values

#: What a layer is called that is the whole module.
ROOT = "(module)"


@dataclass(frozen=True, eq=False)
class Group:
    """All convolutions that share one weight.

    Attributes:
        modules: each with the names under which it is in the whole, in its order.
        reason: why they cannot be replaced; None where they can.
    """

    modules: tuple[tuple[nn.Module, tuple[str, ...]], ...]
    reason: str | None

    @property
    def name(self) -> str:
        """Its first name."""
        return self.names[0] or ROOT

    @property
    def names(self) -> tuple[str, ...]:
        """All its names."""
        return tuple(name for _, names in self.modules for name in names)


def find_groups(root: nn.Module) -> tuple[Group, ...]:
    """All convolutions of a module."""
    paths: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for name, module in root.named_modules(remove_duplicate=False):
        if is_convolution(module):
            paths.setdefault(id(module), []).append(name)
            modules[id(module)] = module
    shared: dict[int, list[int]] = {}
    for key, module in modules.items():
        weight = getattr(module, "weight", None)
        shared.setdefault(id(weight) if isinstance(weight, nn.Parameter) else key, []).append(key)
    users: dict[int, list[str]] = {}
    for name, parameter in root.named_parameters(remove_duplicate=False):
        users.setdefault(id(parameter), []).append(name)
    groups = []
    for keys in shared.values():
        members = tuple((modules[key], tuple(paths[key])) for key in keys)
        groups.append(Group(members, _reason([modules[key] for key in keys], members, users)))
    return tuple(groups)


def _reason(
    modules: Sequence[nn.Module],
    members: Sequence[tuple[nn.Module, Sequence[str]]],
    users: Mapping[int, Sequence[str]],
) -> str | None:
    first = modules[0]
    for module, names in members:
        reason = refusal(module)
        if reason is not None:
            return reason if module is first else f"shares its weight with {names[0]!r}: {reason}"
        same = ("padding_mode", "padding", "transposed")
        if geometry(module) != geometry(first) or any(getattr(module, a) != getattr(first, a) for a in same):
            return f"shares its weight with {names[0]!r}, which has another shape, stride or padding"
    own = {f"{name}.weight".lstrip(".") for _, names in members for name in names}
    others = [name for name in users.get(id(first.weight), ()) if name not in own]
    return f"its weight is also {others[0]!r}" if others else None


def as_layer(group: Group, calls: Mapping[str, tuple[Size, ...]] | None) -> ConvLayer | Skipped:
    """A convolution as planners see it, or why it cannot be one.

    Args:
        group: the convolution.
        calls: by name, the sizes of the inputs with which a module was called; None where nobody has tried.
    """
    first = group.modules[0][0]
    shaped = geometry(first)
    sizes = tuple(size for _, names in group.modules for size in (calls or {}).get(names[0], ()))
    reason = group.reason
    if reason is None and calls is not None and any(not calls.get(names[0]) for _, names in group.modules):
        reason = "is never called with the example inputs"
    if reason is not None or shaped is None:
        macs = sum(shaped.macs(size) for size in sizes) if shaped is not None else 0
        params = 0 if shaped is None else shaped.params
        return Skipped(group.name, reason or "its shape is not known", shaped, macs, params)
    weight, bias = first.weight, first.bias
    assert isinstance(weight, nn.Parameter), "Bug: a module without a plain weight was not refused"
    return ConvLayer(
        group.name, shaped, values(weight), values(bias) if isinstance(bias, nn.Parameter) else None,
        sizes, group.names[1:], BITS[weight.dtype],
    )  # fmt: skip
