"""A PyTorch module whose convolutions are decomposed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...conv import ConvGeometry, ConvLayer, FactorConv, Factors, Skipped
from ...errors import InputError, ModelError, OptionError, OutputError
from ...fingerprint import Description, digest_of
from ...progress import track
from ..base import commit
from ..graph import NetGraph
from .convolution import bias_of, fresh_stack, stack_like, values
from .copies import copied, initialised, lazy_layers
from .graph import net_graph
from .groups import ROOT, Calls, Group, as_layer, find_groups
from .guess import guesses
from .inputs import Arguments
from .study import study

#: Name of the file that `save_to` writes.
STATE_FILE = "state_dict.pt"


@dataclass(frozen=True, eq=False, repr=False)
class TorchModel:
    """A module as a model; editing gives a new one, and never changes the module.

    Attributes:
        module: the module.
        example_inputs: what its forward gets: a tensor, a tuple of arguments, or a dict of named ones; tells
            the sizes of the convolutions' inputs. None where nothing is known.
        replaced: name of each convolution that was replaced -> the names of its stack.
        drawn: names of lazy layers that the example inputs initialised, in a copy.
    """

    format: ClassVar[str] = "torch"

    module: nn.Module
    example_inputs: Any = None
    replaced: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    drawn: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<TorchModel {type(self.module).__name__}>"

    def __post_init__(self) -> None:
        cls = type(self.module)
        if isinstance(self.module, torch.jit.ScriptModule):
            raise ModelError(f"{cls.__name__} is scripted or traced; give the module that it was made from")
        if hasattr(self.module, "_orig_mod"):
            raise ModelError(f"{cls.__name__} is compiled; give the module itself and compile the result")
        if cls.__name__ in ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"):
            raise ModelError(f"the module is wrapped in {cls.__name__}; give its .module and wrap the result")
        lazy = [] if self.example_inputs is None else lazy_layers(self.module)
        if lazy:
            object.__setattr__(self, "module", initialised(self.module, self.example_inputs))
            object.__setattr__(self, "drawn", tuple(lazy))

    @cached_property
    def _groups(self) -> dict[str, Group]:
        return {group.name: group for group in find_groups(self.module)}

    @property
    def _calls(self) -> Calls | None:
        """What forward does with its layers; None where it could not be tried."""
        return self._studied[0]

    @property
    def sample(self) -> Any:
        """What forward was tried with: the example inputs, else what was synthesized; None for nothing."""
        return self._studied[1]

    @cached_property
    def _studied(self) -> tuple[Calls | None, Any]:
        if self.example_inputs is not None:
            return study(self.module, Arguments.of(self.module, self.example_inputs)), self.example_inputs
        for tensor in guesses(self.module):
            try:
                return study(self.module, Arguments.of(self.module, tensor), str(tuple(tensor.shape))), tensor
            except (InputError, ModelError):
                continue
        return None, None

    @cached_property
    def _convolutions(self) -> tuple[ConvLayer | Skipped, ...]:
        others = () if self._calls is None else self._calls.others
        return (*(as_layer(group, self._calls) for group in self._groups.values()), *others)

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

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was assumed, since the module did not tell."""
        found = []
        if self.drawn:
            found.append(
                f"{', '.join(self.drawn)}: lazy layers, whose weights were drawn just now for the example "
                "inputs, and not trained; run the module once and load its weights"
            )
        if self._calls is None:
            found.append(
                "the module could not be run, so layers that its forward reaches otherwise than by calling "
                "them are not known; give example_inputs"
            )
        return tuple(found)

    def sources(self) -> dict[str, str]:
        """The sha256 of the state: names, types, shapes and values of parameters and buffers."""
        digest = hashlib.sha256()
        for name, tensor in track(self.module.state_dict().items(), "hashing the module"):
            if isinstance(tensor, Tensor) and not is_lazy(tensor):
                digest.update(f"{name} ".encode())
                _add(digest, tensor)
        return {type(self.module).__name__: digest.hexdigest()}

    def fingerprint(self) -> str:
        """Give the sha256 of tensors, attributes and code of the module, for the cache of results."""
        seen = Description(_tensor_digest, frozenset({"training", "example_inputs"}))
        return digest_of(seen.of(self.module), self.replaced)

    def replace(self, factors: Mapping[str, Factors]) -> TorchModel:
        """Put stacks of convolutions in the place of layers, in a copy of the module.

        A convolution `conv1` becomes an `nn.Sequential` of plain ones, `conv1.0`, `conv1.1` and so on.
        Modules that share the weight are replaced alike and share the new ones, each with its own bias.

        Args:
            factors: name of a layer that `convolutions` gives as `ConvLayer` -> its stack.

        Raises:
            ModelError: no such layer.
        """
        new = replace_in(copied(self.module), factors)
        replaced = {name: stack_names(name, len(stack.convs)) for name, stack in factors.items()}
        return replace(self, module=new, replaced={**self.replaced, **replaced})

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


def _add(digest: hashlib._Hash, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    if not tensor.is_meta:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())


def _tensor_digest(value: Any) -> str | None:
    """The sha256 of a tensor or an array; None of anything else."""
    if isinstance(value, np.ndarray):
        return hashlib.sha256(f"{value.dtype} {value.shape} ".encode() + value.tobytes()).hexdigest()
    if not isinstance(value, Tensor):
        return None
    if is_lazy(value):
        return "lazy"
    digest = hashlib.sha256()
    _add(digest, value)
    return digest.hexdigest()


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


def _write(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)
