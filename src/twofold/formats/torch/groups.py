"""The convolutions of a module: what shares a weight is one, changed together or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from ...conv import ConvLayer, Size, Skipped
from .convolution import BITS, READ_BY, adapter_for, bias_of, geometry, rejection, values
from .layer_types import adapter_of

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


@dataclass(frozen=True, eq=False)
class Calls:
    """How a run called the layers of a module.

    Attributes:
        sizes: by name, the sizes of the inputs of every call.
        runs: by name, how often each call runs per image.
        more: names of those that were given more than their input.
        macs: MACs per image of each layer, as they were counted.
        elsewhere: why a layer has to stay, since forward does more with it than call it.
        others: what is computed with weights, and by no layer.
        synthetic: the shape of the input, where nobody gave one; sizes and MACs are not known then.
    """

    sizes: Mapping[str, tuple[Size, ...]]
    runs: Mapping[str, tuple[Fraction, ...]]
    more: frozenset[str]
    macs: Mapping[str, Fraction]
    elsewhere: Mapping[str, str]
    others: tuple[Skipped, ...] = ()
    synthetic: str = ""


def find_groups(root: nn.Module) -> tuple[Group, ...]:
    """All convolutions of a module."""
    paths: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for name, module in root.named_modules(remove_duplicate=False):
        if adapter_of(module) is not None:
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
        reason = _reason([modules[key] for key in keys], members, users) or _read_by(root, members)
        groups.append(Group(members, reason))
    return tuple(groups)


def _read_by(root: nn.Module, members: Sequence[tuple[nn.Module, Sequence[str]]]) -> str | None:
    """Why layers stay that the module around them does not call."""
    for name in (name for _, names in members for name in names if name):
        parent = root.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, READ_BY):
            return f"its weight is read by the {type(parent).__name__} that holds it"
    return None


def _reason(
    modules: Sequence[nn.Module],
    members: Sequence[tuple[nn.Module, Sequence[str]]],
    users: Mapping[int, Sequence[str]],
) -> str | None:
    first = modules[0]
    for module, names in members:
        reason = rejection(module)
        if reason is not None:
            return reason if module is first else f"shares its weight with {names[0]!r}: {reason}"
        adapter = adapter_for(module)  # which says how the weight is stored, too
        if (
            adapter is not adapter_for(first)
            or geometry(module) != geometry(first)
            or adapter.settings(module) != adapter.settings(first)
        ):
            return f"shares its weight with {names[0]!r}, which has another shape, stride or padding"
    own = {f"{name}.weight".lstrip(".") for _, names in members for name in names}
    others = [name for name in users.get(id(first.weight), ()) if name not in own]
    return f"its weight is also {others[0]!r}" if others else None


def as_layer(group: Group, calls: Calls | None) -> ConvLayer | Skipped:
    """A layer as planners see it, or why it cannot be one.

    Args:
        group: the layer.
        calls: how modules were called; None where nobody has tried.
    """
    first = group.modules[0][0]
    shaped = geometry(first)
    called = [names[0] for _, names in group.modules]
    sized = calls if calls is not None and not calls.synthetic else None
    sizes = tuple(size for name in called for size in (sized.sizes.get(name, ()) if sized else ()))
    runs = tuple(one for name in called for one in (sized.runs.get(name, ()) if sized else ()))
    reason = group.reason or (None if calls is None else _uncalled(group.name, called, calls))
    if reason is not None or shaped is None:
        params = 0 if shaped is None else shaped.params
        return Skipped(
            group.name,
            reason or "its shape is not known",
            shaped,
            _counted(group.name, called, calls),
            params,
        )
    weight, bias = first.weight, bias_of(first)
    assert isinstance(weight, nn.Parameter), "Bug: a module without a plain weight was not rejected"
    layer = ConvLayer(
        group.name, shaped, adapter_for(first).weight(values(weight), shaped),
        None if bias is None else values(bias), sizes, group.names[1:], BITS[weight.dtype],
        runs=() if all(one == 1 for one in runs) else runs,
    )  # fmt: skip
    if sized is not None and layer.macs != round(sized.macs.get(group.name, Fraction(0))):
        return Skipped(
            group.name, f"computes something else than its shape says ({layer.macs} MACs)", shaped,
            round(sized.macs.get(group.name, Fraction(0))), shaped.params,
        )  # fmt: skip
    return layer


def _uncalled(name: str, called: Sequence[str], calls: Calls) -> str | None:
    """Why a layer has to stay by what forward does with it; None where it only calls it."""
    if any(one not in calls.sizes for one in called) and name not in calls.elsewhere:
        inputs = f"a synthetic input of shape {calls.synthetic}" if calls.synthetic else "the example inputs"
        return f"is never called with {inputs}"
    if not calls.more.isdisjoint(called):
        return "is called with more than its input, which a stack does not take"
    return calls.elsewhere.get(name)


def _counted(name: str, called: Sequence[str], calls: Calls | None) -> int | None:
    """MACs of a layer that stays: 0 where it never ran, None where that is not known."""
    if calls is None:
        return None
    macs = round(calls.macs.get(name, Fraction(0)))
    ran = macs or any(one in calls.sizes for one in called)
    return (None if calls.synthetic else macs) if ran else 0
