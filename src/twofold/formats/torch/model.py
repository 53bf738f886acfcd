"""A PyTorch module whose convolutions are decomposed."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from ...conv import ConvGeometry, ConvLayer, FactorConv, Factors, Size, Skipped
from ...errors import InputError, ModelError, OptionError, OutputError
from ...progress import track
from ..base import commit
from ..graph import NetGraph
from .convolution import bias_of, fresh_stack, stack_like, values
from .graph import net_graph
from .groups import ROOT, Calls, Group, as_layer, find_groups
from .inputs import Arguments
from .kinds import Kind, kind_of

#: Name of the file that `save_to` writes.
STATE_FILE = "state_dict.pt"


@dataclass(frozen=True, eq=False)
class TorchModel:
    """A module as a model; editing gives a new one, and never changes the module.

    Attributes:
        module: the module.
        example_inputs: what its forward gets: a tensor, a tuple of arguments, or a dict of named ones; tells
            the sizes of the convolutions' inputs. None where nothing is known.
        replaced: name of each convolution that was replaced -> the names of its stack.
    """

    module: nn.Module
    example_inputs: Any = None
    replaced: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = type(self.module)
        if isinstance(self.module, torch.jit.ScriptModule):
            raise ModelError(f"{kind.__name__} is scripted or traced; give the module that it was made from")
        if hasattr(self.module, "_orig_mod"):
            raise ModelError(f"{kind.__name__} is compiled; give the module itself and compile the result")
        if kind.__name__ in ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"):
            raise ModelError(
                f"the module is wrapped in {kind.__name__}; give its .module and wrap the result"
            )

    @cached_property
    def _groups(self) -> dict[str, Group]:
        return {group.name: group for group in find_groups(self.module)}

    @cached_property
    def _calls(self) -> Calls | None:
        return None if self.example_inputs is None else calls(copied(self.module), self.example_inputs)

    @property
    def _sizes(self) -> Mapping[str, tuple[Size, ...]]:
        return {} if self._calls is None else self._calls.sizes

    @cached_property
    def _convolutions(self) -> tuple[ConvLayer | Skipped, ...]:
        return tuple(as_layer(group, self._calls) for group in self._groups.values())

    def convolutions(self) -> tuple[ConvLayer | Skipped, ...]:
        """All convolutions of the module in its order; those that cannot be replaced as `Skipped`.

        Raises:
            InputError: the module does not run on the example inputs.
        """
        return self._convolutions

    def graph(self) -> NetGraph:
        """See `formats.base.Model.graph`."""
        return net_graph(copied(self.module), self._groups.values(), self.example_inputs)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual but does no harm."""
        if self.example_inputs is not None:
            return ()
        return ("without example inputs the sizes are not known; MACs are counted per output position",)

    def sources(self) -> dict[str, str]:
        """The sha256 of the state: names, types, shapes and values of parameters and buffers."""
        digest = hashlib.sha256()
        for name, tensor in track(self.module.state_dict().items(), "hashing the module"):
            if isinstance(tensor, Tensor):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
                if not tensor.is_meta:
                    flat = tensor.detach().cpu().contiguous().reshape(-1)
                    digest.update(flat.view(torch.uint8).numpy().tobytes())
        return {type(self.module).__name__: digest.hexdigest()}

    def replace(self, factors: Mapping[str, Factors]) -> TorchModel:
        """Put stacks of convolutions in the place of layers, in a copy of the module.

        A convolution `conv1` becomes an `nn.Sequential` of plain ones, `conv1.0`, `conv1.1` and so on.
        Modules that share the weight are replaced alike and share the new ones, each with its own bias.

        Args:
            factors: name of a layer that `convolutions` gives as `ConvLayer` -> its stack.

        Raises:
            ModelError: no such layer, or the module does not run with the stacks in place.
        """
        new = replace_in(copied(self.module), factors)
        replaced = {name: stack_names(name, len(stack.convs)) for name, stack in factors.items()}
        model = replace(self, module=new, replaced={**self.replaced, **replaced})
        if self.example_inputs is not None:
            self._refuse_detours(model, factors)
        return model

    def _refuse_detours(self, model: TorchModel, factors: Mapping[str, Factors]) -> None:
        """Raise ModelError where forward uses a convolution in another way than by calling it."""
        names = " or ".join(list(factors)[:5])
        try:
            after = model._sizes
        except InputError as error:
            raise ModelError(
                f"the module does not run once {names} is replaced, so its forward uses it in another way "
                f"than by calling it; leave it alone (skip=...): {error.__cause__}"
            ) from error
        for name in factors:
            before = self._sizes.get("" if name == ROOT else name, ())
            first = model.replaced[name][0]
            if len(after.get(first, ())) != len(before):
                raise ModelError(
                    f"{name}: forward reaches this module in another way than by its name; leave it alone "
                    f"(skip={name!r})"
                )

    def targets(self, folder: Path) -> tuple[Path, ...]:
        """See `formats.base.Model.targets`."""
        return (folder / STATE_FILE,)

    def save_to(
        self,
        folder: Path,
        *,
        force: bool,
        extra: Mapping[Path, bytes],
        check: Callable[[TorchModel], None],
    ) -> tuple[Path, ...]:
        """Write the module's state_dict; see `formats.base.Model.save_to`."""
        (path,) = self.targets(folder)
        buffer = io.BytesIO()
        torch.save(self.module.state_dict(), buffer)
        files = {path: partial(_write, content=buffer.getvalue())}
        for name, content in extra.items():
            files[name] = partial(_write, content=content)
        if len(files) < 1 + len(extra):
            raise OptionError(f"{path}: the state and the plan need different files")

        def reread(places: Mapping[Path, Path]) -> None:
            module = copied(self.module)
            try:
                module.load_state_dict(torch.load(places[path], weights_only=True))
            except (RuntimeError, ValueError, EOFError) as error:
                raise OutputError(f"{path}: what was written cannot be loaded again: {error}") from error
            check(replace(self, module=module))

        commit(files, force=force, check=reread)
        return (path, *extra)


def stack_names(name: str, count: int) -> tuple[str, ...]:
    """Names of the convolutions that stand for one: conv1.0, conv1.1."""
    return tuple(str(i) if name == ROOT else f"{name}.{i}" for i in range(count))


def replace_in(root: nn.Module, factors: Mapping[str, Factors]) -> nn.Module:
    """Put stacks in the place of a module's convolutions; gives the module, or the stack where it is all.

    Raises:
        ModelError: no such layer.
    """

    def stack(name: str, module: nn.Module, owner: nn.Module) -> nn.Sequential:
        return stack_like(module, with_own_bias(factors[name].convs, module, owner))

    return _put(root, factors, stack)


def restructured(
    root: nn.Module, chains: Mapping[str, Sequence[ConvGeometry]], biased: Collection[str]
) -> nn.Module:
    """A copy of a module with fresh layers of the right shapes in the place of its convolutions.

    Args:
        root: the module; its weights do not matter.
        chains: name of each layer that `TorchModel.convolutions` gives as `ConvLayer` -> shapes of its stack.
        biased: those whose stack has a bias even where the layer has none, since a fit corrects the mean.
    """

    def stack(name: str, module: nn.Module, _: nn.Module) -> nn.Sequential:
        return fresh_stack(module, chains[name], bias=bias_of(module) is not None or name in biased)

    return _put(copied(root), chains, stack)


def _put(
    root: nn.Module, names: Iterable[str], stack: Callable[[str, nn.Module, nn.Module], nn.Sequential]
) -> nn.Module:
    """Put what `stack` makes of a layer's name, module, and first module in the place of each."""
    groups = {group.name: group for group in find_groups(root)}
    for name in names:
        group = groups.get(name)
        if group is None or group.reason is not None:
            raise ModelError(f"{type(root).__name__} has no convolution {name!r} that can be replaced")
        first: nn.Sequential | None = None
        for module, paths in group.modules:
            new = stack(name, module, group.modules[0][0])
            first = first or new
            for own, owner in zip(new, first, strict=True):
                own.weight = owner.weight
            for path in paths:
                if not path:
                    return new
                parent, _, leaf = path.rpartition(".")
                setattr(root.get_submodule(parent), leaf, new)
    return root


def with_own_bias(
    convs: tuple[FactorConv, ...], module: nn.Module, owner: nn.Module
) -> tuple[FactorConv, ...]:
    """The stack for a module that shares its weight: its own bias plus what the stack adds to the owner's."""
    if module is owner:
        return convs
    last = convs[-1]
    zeros = np.zeros(last.geometry.c_out)
    biases = [bias_of(one) for one in (module, owner)]
    own, owners = (zeros if bias is None else values(bias) for bias in biases)
    shift = (zeros if last.bias is None else last.bias) - owners
    if biases[0] is None and not np.any(shift):
        return (*convs[:-1], replace(last, bias=None))
    return (*convs[:-1], replace(last, bias=own + shift))


def calls(module: nn.Module, example_inputs: Any) -> Calls:
    """Run a module that may be changed; gives what each layer was called with.

    Raises:
        InputError: it does not run.
    """
    found: dict[str, list[Size]] = {}
    more_given: set[str] = set()
    arguments = Arguments.of(module, example_inputs)
    batch = next((tensor.shape[0] for tensor in arguments.tensors.values() if tensor.dim()), 1)

    def note(
        name: str, kind: Kind, one: nn.Module, given: tuple[Tensor, ...], named: Mapping[str, Tensor]
    ) -> None:
        tensor, *more = (*given, *named.values()) if given else named.values()
        if any(value is not None for value in more):
            more_given.add(name)
        found.setdefault(name, []).append(kind.size(one, tensor, batch))

    for name, one in module.named_modules():
        kind = kind_of(one)
        if kind is not None:
            one.register_forward_pre_hook(partial(note, name, kind), with_kwargs=True)
    with torch.no_grad():
        arguments.call(module.eval())
    return Calls({name: tuple(sizes) for name, sizes in found.items()}, frozenset(more_given))


def copied(module: nn.Module) -> nn.Module:
    """A copy of a module that may be changed.

    Raises:
        ModelError: it holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(module)
    except Exception as error:  # whatever an attribute's own copying raises
        raise ModelError(
            f"{type(module).__name__} cannot be copied ({error}); remove what cannot be, such as tensors "
            "that are results of computations"
        ) from error


def _write(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)
