"""Hashes of what a result depends on: plain values, Python code, this package with what computes for it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from .codec import to_plain

#: Packages whose numbers go into results.
_NUMERIC = ("numpy", "scipy", "torch", "onnx", "onnxruntime")
#: Top-level packages that are known by their versions; code of all others is hashed.
_BY_VERSION = frozenset({"twofold", "builtins", "typing", "abc", "functools", *_NUMERIC})
#: Values that are looked at before one counts as impossible to describe.
_MOST = 200_000


def digest_of(*values: Any) -> str:
    """The sha256 of plain values (see `codec.to_plain`), in hexadecimal."""
    return hashlib.sha256(json.dumps(to_plain(values), sort_keys=True).encode()).hexdigest()


@cache
def package_digest() -> str:
    """The sha256 of twofold's own code, with the versions of what it computes with.

    Whoever edits twofold cannot forget to say that its numbers are others now.
    """
    root, found = Path(__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()} {len(content)} ".encode())
        found.update(content)
    return digest_of(found.hexdigest(), _versions(), platform.python_version(), platform.machine())


def _versions() -> dict[str, str]:
    found = {}
    for name in ("twofold", *_NUMERIC):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def is_versioned(function: Any) -> bool:
    """Whether a class or function belongs to a package that `package_digest` covers."""
    return _package(function) in _BY_VERSION


class Description:
    """A live Python value as plain values that tell what it computes, without calling or importing anything.

    Functions are told by their code, what that names and what they close over; objects by their class and
    attributes. What code reads from elsewhere (files, the environment, attributes of other modules) is not
    seen.
    """

    def __init__(self, arrays: Callable[[Any], str | None], leave_out: frozenset[str] = frozenset()) -> None:
        """Prepare.

        Args:
            arrays: the hash of an array or tensor; None for any other value.
            leave_out: attributes of objects that tell nothing, or are told otherwise.
        """
        self._arrays, self._leave_out = arrays, leave_out
        self._met: dict[int, tuple[int, Any]] = {}

    def of(self, value: Any) -> Any:
        """Describe a value.

        Raises:
            ValueError: it holds too much.
        """
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, (float, complex, bytes, type(...))):
            return [type(value).__name__, repr(value)]
        # By number where it was met before: values may hold each other. They are held, so that no other
        # value gets the same address.
        if id(value) in self._met:
            return ["again", self._met[id(value)][0]]
        self._met[id(value)] = (len(self._met), value)
        if len(self._met) > _MOST:
            raise ValueError(f"there are more than {_MOST} values in it")
        return self._anew(value)

    def _anew(self, value: Any) -> Any:
        hashed = self._arrays(value)
        if hashed is not None:
            return ["array", hashed]
        if isinstance(value, (tuple, list)):
            return [type(value).__name__, *map(self.of, value)]
        if isinstance(value, (set, frozenset)):
            return ["set", *sorted(json.dumps(self.of(one)) for one in value)]
        if isinstance(value, Mapping):
            return ["mapping", *([self.of(key), self.of(one)] for key, one in value.items())]
        if isinstance(value, CodeType):
            return self._code(value)
        if isinstance(value, partial):
            return ["partial", *map(self.of, (value.func, value.args, value.keywords))]
        if isinstance(value, MethodType):
            return ["method", self.of(value.__self__), self.of(value.__func__)]
        if isinstance(value, (FunctionType, BuiltinFunctionType)):
            return self._function(value)
        if isinstance(value, ModuleType):
            return ["module", value.__name__]
        return self._class(value) if isinstance(value, type) else self._object(value)

    def _object(self, value: Any) -> Any:
        attributes = {**_slots(value), **getattr(value, "__dict__", {})}
        told = {name: self.of(one) for name, one in attributes.items() if name not in self._leave_out}
        # As of a dtype or a device; an address tells nothing.
        text = "" if told or " at 0x" in repr(value) else repr(value)
        return ["object", self.of(type(value)), told, text]

    def _class(self, value: type) -> Any:
        name = _name_of(value)
        if is_versioned(value):
            return ["class", name]
        parts = {
            key: self.of(getattr(one, "__func__", one))
            for key, one in vars(value).items()
            if key not in ("__dict__", "__weakref__", "__doc__", "__annotations__", "__module__")
        }
        return ["class", name, [self.of(base) for base in value.__bases__], parts]

    def _function(self, value: Any) -> Any:
        name = _name_of(value)
        if is_versioned(value) or not isinstance(value, FunctionType):
            return ["function", name]
        found = {key: value.__globals__[key] for key in _names(value.__code__) if key in value.__globals__}
        named = {key: one if _is_near(value, one) else _name_of(one) for key, one in found.items()}
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        parts = (value.__code__, value.__defaults__, value.__kwdefaults__, named, cells)
        return ["function", name, *map(self.of, parts)]

    def _code(self, code: CodeType) -> Any:
        return ["code", code.co_code.hex(), list(code.co_names), [self.of(one) for one in code.co_consts]]


def _is_near(user: FunctionType, used: Any) -> bool:
    """Whether code that a function names is to be read, too: of its own package, or a value."""
    of_code = isinstance(used, (FunctionType, BuiltinFunctionType, type))
    return not of_code or _package(user) == _package(used)


def _package(value: Any) -> str:
    return str(getattr(value, "__module__", None) or "builtins").split(".")[0]


def _name_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _slots(value: Any) -> dict[str, Any]:
    names = [name for kind in type(value).__mro__ for name in _listed(vars(kind).get("__slots__", ()))]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _listed(slots: Any) -> Iterator[str]:
    yield from ([slots] if isinstance(slots, str) else slots)


def _names(code: CodeType) -> list[str]:
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    return sorted({*code.co_names, *(name for one in inner for name in _names(one))})


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - asks
    except ValueError:
        return False
    return True
