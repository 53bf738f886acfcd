"""Layers that a forward reaches in another way than by calling them, found by running with stand-ins.

A layer that is replaced is a `Sequential` under the layer's name. So every layer gets one around it, whose
forward counts and whose missing attributes are those of the layer, and the module runs once: what was read,
and what was called past the stand-in, is known by name. Where the module still does not run as before (it
asks for the class of a layer, say), those that stand in the way are found by halving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from .inputs import Arguments
from .outputs import flat
from .running import same_randomness

#: Layers that are looked for one by one; if there are more, all of them stay.
_MOST = 16
#: What stand-ins keep for themselves.
_OWN = frozenset({"training", "_inner", "_noted"})

#: Name of each layer -> its modules, each with the names under which it is in the whole.
Places = Mapping[str, Sequence[tuple[nn.Module, Sequence[str]]]]


class _Noted:
    """What happened to one layer in one run."""

    def __init__(self) -> None:
        self.read: dict[str, None] = {}
        self.called = self.ran = 0

    @property
    def reason(self) -> str | None:
        """Why the layer has to stay; None where it was only called."""
        if self.read:
            names = ", ".join(self.read)
            return f"the module reads its {names} beside calling it, which a stack of layers does not have"
        if self.ran > self.called:
            return "is called past its name in the module (as through a list), where a stack would not be"
        return None


class _StandIn(nn.Sequential):
    """A layer as it would be after replacement, with notes of what a stack could not do."""

    def __init__(self, inner: nn.Module, noted: _Noted) -> None:
        super().__init__(inner)
        self.__dict__.update(_inner=inner, _noted=noted)
        self.training = inner.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._noted.called += 1
        return self._inner(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_inner" not in self.__dict__:
                raise
            found = getattr(self._inner, name)
            if not name.startswith("__"):
                self._noted.read[name] = None
            return found

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN or "_inner" not in self.__dict__:
            super().__setattr__(name, value)
            return
        self._noted.read[name] = None
        setattr(self._inner, name, value)


@dataclass(frozen=True, eq=False)
class _Run:
    """One run with stand-ins: reasons by layer, and whether all was as before."""

    reasons: Mapping[str, str]
    same: bool
    error: str = ""


@dataclass(frozen=True, eq=False)
class Detours:
    """Looks for layers that cannot be replaced, since a forward does more with them than call them.

    Attributes:
        make: gives a copy of the module, and the places of its layers.
        arguments: what forward gets.
        outputs: what it gave without stand-ins, under `same_randomness`.
    """

    make: Callable[[], tuple[nn.Module, Places]]
    arguments: Arguments
    outputs: Mapping[str, Tensor]

    def reasons(self, layers: Sequence[str]) -> dict[str, str]:
        """Why layers have to stay, by name, of those among `layers` that have to."""
        run = self._run(layers)
        found = dict(run.reasons)
        if run.same and not found:
            return found
        rest = [name for name in layers if name not in found]
        random: bool | None = None
        while rest:
            run = self._run(rest)
            found |= run.reasons
            if run.same and not run.reasons:
                break
            if not run.error and not run.reasons:
                random = not self._run(()).same if random is None else random
                if random:  # outputs that differ from run to run tell nothing
                    break
            if not run.reasons:
                why = "the module does not run as before with a stack in its place"
                why = f"{why} ({run.error or 'it gives other outputs'})"
                names = rest if len(found) >= _MOST else [self._culprit(rest)]
                found |= dict.fromkeys(names, why)
            rest = [name for name in rest if name not in found]
        return found

    def _culprit(self, layers: Sequence[str]) -> str:
        """One layer that does not bear a stand-in, of several of which at least one does not."""
        while len(layers) > 1:
            half = layers[: len(layers) // 2]
            run = self._run(half)
            layers = layers[len(half) :] if run.same and not run.reasons else half
        return layers[0]

    def _run(self, layers: Sequence[str]) -> _Run:
        module, places = self.make()
        noted = {name: _Noted() for name in layers}
        for name, note in noted.items():
            for inner, names in places[name]:
                inner.register_forward_pre_hook(partial(_ran, note))
                stand_in = _StandIn(inner, note)
                for path in names:
                    parent, _, leaf = path.rpartition(".")
                    if path:
                        setattr(module.get_submodule(parent), leaf, stand_in)
        error, same = "", False
        try:
            module.train().eval()  # which may read layers, too
            with torch.no_grad(), same_randomness():
                same = _equal(flat(self.arguments.call(module)), self.outputs)
        except InputError as failed:
            error = _first_line(failed.__cause__ or failed)
        except Exception as failed:  # whatever a train() of its own raises
            error = _first_line(failed)
        whole = "" in {path for name in layers for _, paths in places[name] for path in paths}
        reasons = {} if whole else {name: note.reason for name, note in noted.items() if note.reason}
        return _Run(reasons, same, error)


def _ran(note: _Noted, *_: Any) -> None:
    note.ran += 1


def _equal(found: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> bool:
    return found.keys() == before.keys() and all(
        one.shape == before[name].shape
        and (one.is_meta or bool(torch.allclose(one, before[name], 0, 0, equal_nan=True)))
        for name, one in found.items()
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
