"""What each format offers beyond its files, and the registry of it: one entry per format.

An entry names functions of rooms above this one, as "package.module:function", and no more: what a format can
do is listed in one place, and imported when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..conv import Size
from ..errors import MissingExtraError, ModelError, OptionError
from ..formats.base import Model
from ..lazy import resolve

Inputs = Mapping[str, Size] | None
#: A function, or its name; see `lazy`.
Function = Callable[..., Any] | str


@dataclass(frozen=True)
class Part:
    """Something that a format offers.

    Attributes:
        function: what does it.
        package: what it needs beyond the core, in words.
        extra: what installs that.
    """

    function: Function
    package: str = ""
    extra: str = ""

    def get(self, feature: str) -> Callable[..., Any]:
        """The function.

        Args:
            feature: what it is wanted for, for the message.

        Raises:
            MissingExtraError: what it needs is not installed.
        """
        if not isinstance(self.function, str):
            return self.function
        try:
            found: Callable[..., Any] = resolve(self.function)
        except ImportError as error:
            if not self.package:
                raise
            raise MissingExtraError(feature, self.package, self.extra) from error
        return found


@dataclass(frozen=True)
class Objects:
    """Live objects of a framework, which are models, too.

    Attributes:
        include: whether a value is one; imports nothing.
        adopt: makes a model of an object and example inputs, or gives a model other example inputs.
        peek: example inputs from the first of the data, and the data, of which nothing is lost.
    """

    include: Callable[[Any], bool]
    adopt: Function
    peek: Function


@dataclass(frozen=True, eq=False)
class Backend:
    """A format, and what can be done with models of it; what is None cannot.

    Attributes:
        name: what it is called; its models have it as `format`.
        suffixes: endings of its definition's file name, lower case; empty for what no other format claims.
        open: loads a model from its file, the file of its weights, and shapes of inputs.
        label: what people call it.
        runner: of a model and the names of protected outputs: runs it (`calibration.runner.Runner`).
        student: of the original, the decomposed model, names of outputs and a device: trains it
            (`recover.student.Student`).
        to_onnx: a model as an ONNX message, all data inside.
        inputs: shape and type of every input of a model, by name; a shape is None where it is not known.
        forms: how runtimes get a whole network, by the name of the form: writes a model into a folder and
            gives what was written (see `latency.nets`).
        objects: for a framework whose models are no files.
        hints: whether values inside its models have names that `recover` can teach on.
        sizes: how a call of Python says the sizes of inputs.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    open: Function | None = None
    label: str = ""
    runner: Part | None = None
    student: Part | None = None
    to_onnx: Part | None = None
    inputs: Part | None = None
    forms: Mapping[str, Function] = field(default_factory=dict)
    objects: Objects | None = None
    hints: bool = True
    sizes: str = "inputs={...}"

    def __str__(self) -> str:
        return self.label or self.name

    def part(self, name: str, what: str) -> Part:
        """Something that it may offer, by the name of the field.

        Args:
            name: "runner", "student", "to_onnx" or "inputs".
            what: what its models cannot do without, for the message.

        Raises:
            ModelError: it does not offer it.
        """
        found: Part | None = getattr(self, name)
        if found is None:
            raise ModelError(f"{self} models cannot {what}")
        return found

    def form(self, name: str) -> Callable[..., Any]:
        """What writes a model in a form; see `forms`."""
        return Part(self.forms[name]).get("timing")


_backends: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Add a format.

    Raises:
        OptionError: another format has one of its suffixes, or its name.
    """
    for known in _backends.values():
        if known.name == backend.name or set(known.suffixes) & set(backend.suffixes):
            raise OptionError(
                f"format '{backend.name}' clashes with '{known.name}', which is registered already"
            )
    _backends[backend.name] = backend


def backends() -> tuple[Backend, ...]:
    """All registered formats."""
    return tuple(_backends.values())


def backend(name: str) -> Backend:
    """A format by name.

    Raises:
        OptionError: there is none of this name.
    """
    if name not in _backends:
        raise OptionError(f"no format '{name}'; known: {', '.join(_backends)}")
    return _backends[name]


def backend_of(model: Model) -> Backend:
    """The format of a model.

    Raises:
        ModelError: it is of none that is registered.
    """
    found = _backends.get(getattr(model, "format", ""))
    if found is None:
        raise ModelError(
            f"a value of type {type(model).__name__} is no model of a known format: {', '.join(_backends)}"
        )
    return found
