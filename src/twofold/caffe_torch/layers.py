"""A mapping from layer names, whatever they are, to submodules."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ..errors import ModelError


def module_key(name: str) -> str:
    """The name under which torch holds the submodule of layer `name`; most names stay as they are.

    Torch allows neither dots nor an empty name nor the names of a module's own attributes. No two names have
    one key.
    """
    key = name.replace("%", "%25").replace(".", "%2E")
    return f"%{key}" if not key or hasattr(nn.Module, key) or key in _INSTANCE_ATTRIBUTES else key


_INSTANCE_ATTRIBUTES = frozenset((*nn.Module().__dict__, "order"))


class LayerMap(nn.Module):
    """The layers of a net in order, by position or by Caffe name.

    Of several layers with one name the first is found by it, as Caffe finds them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.order: tuple[str, ...] = ()

    def append(self, name: str, module: nn.Module) -> None:
        """Add the next layer."""
        key = module_key(name)
        if key in self._modules:
            key = f"{key}%#{len(self.order)}"
        self.add_module(key, module)
        self.order += (key,)

    def __getitem__(self, which: int | str) -> nn.Module:
        """A layer by position or name."""
        module = self._modules.get(self._key(which))
        assert module is not None
        return module

    def __setitem__(self, which: int | str, module: nn.Module) -> None:
        """Put another module in a layer's place."""
        self._modules[self._key(which)] = module

    def _key(self, which: int | str) -> str:
        if isinstance(which, int):
            return self.order[which]
        key = module_key(which)
        if key not in self._modules:
            raise ModelError(f"the net has no layer {which!r}; it has {', '.join(self.order)}")
        return key

    def index(self, name: str) -> int:
        """Position of a layer."""
        return self.order.index(self._key(name))

    def __contains__(self, name: str) -> bool:
        """Whether a layer has this name."""
        return module_key(name) in self._modules

    def __len__(self) -> int:
        """Number of layers."""
        return len(self.order)

    def __iter__(self) -> Iterator[nn.Module]:
        """The layers in order."""
        return (self[i] for i in range(len(self)))
