"""Frozen dataclasses as JSON and back, by their annotations: the dataclasses are the schema."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import FormatError
from .renamed import FORMER

T = TypeVar("T")

#: Numbers up to here can be added, multiplied and drawn without overflow.
_LARGEST, _LARGEST_COUNT = 1e150, 2**63 - 1


def to_plain(value: Any) -> Any:
    """A value as what JSON knows: dataclasses and mappings become objects, tuples arrays, paths text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def strict_json(text: str, what: str) -> Any:
    """Read JSON as its standard has it: no NaN, no key twice, no number without bounds.

    Args:
        text: the document.
        what: it is to be, for messages: "plan".

    Raises:
        FormatError: it is none; says where.
    """

    def no_constant(name: str) -> NoReturn:
        raise FormatError(f"is no {what}: {name} is no JSON number")

    def number(digits: str) -> float:
        found = float(digits)
        return found if math.isfinite(found) else no_constant(digits[:40])

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise FormatError(f"is no {what}: key {max(keys, key=keys.count)!r} stands twice in one object")
        return found

    try:
        return json.loads(
            text, parse_constant=no_constant, parse_float=number, object_pairs_hook=no_duplicates
        )
    except json.JSONDecodeError as error:
        raise FormatError(f"is no {what}: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, endless nesting
        raise FormatError(f"is no {what}: {error}") from error


def from_plain(cls: type[T], value: Any, where: str) -> T:
    """Read a dataclass from what `to_plain` gave.

    Args:
        cls: the dataclass; its annotations are the schema.
        value: of JSON.
        where: what the whole is called: "the report".

    Raises:
        FormatError: a key is unknown or missing, or a value is of another type; says where.
    """
    found: T = _read(cls, value, where)
    return found


def _read(cls: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(cls), get_args(cls)
    if cls is Any:
        return value
    if origin in (Union, types.UnionType):
        (inner,) = (one for one in arguments if one is not type(None))
        return None if value is None else _read(inner, value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is not None and issubclass(origin, Mapping):
        _demand(isinstance(value, dict), value, where, "an object")
        return {key: _read(arguments[1], one, f"{where}.{key}") for key, one in value.items()}
    if is_dataclass(cls):
        return _dataclass(cls, value, where)
    if cls is Path:
        return Path(_read(str, value, where))
    if cls is float:
        _demand(isinstance(value, (int, float)) and not isinstance(value, bool), value, where, "a number")
        _demand(abs(value) <= _LARGEST, value, where, "a number that can be computed with")
        return float(value)
    if cls is int:
        _demand(type(value) is int and abs(value) <= _LARGEST_COUNT, value, where, "a whole number of bounds")
    _demand(type(value) is cls, value, where, f"of type {cls.__name__}")
    return value


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _demand(isinstance(value, list), value, where, "an array")
    types = [arguments[0]] * len(value) if arguments[-1:] == (Ellipsis,) else list(arguments)
    _demand(len(types) == len(value), value, where, f"an array of {len(types)}")
    return tuple(
        _read(cls, one, f"{where}[{i}]") for i, (cls, one) in enumerate(zip(types, value, strict=True))
    )


def _dataclass(cls: Any, value: Any, where: str) -> Any:
    _demand(isinstance(value, dict), value, where, "an object")
    former = getattr(cls, FORMER, {})
    former = {old: today for old, today in former.items() if today not in value}
    value = {former.get(key, key): one for key, one in value.items()}
    known = {field.name: field for field in fields(cls)}
    unknown = sorted(value.keys() - known.keys())
    needed = {
        name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING
    }
    missing = sorted(needed - value.keys())
    if unknown or missing:
        what = f"key {unknown[0]!r} is unknown" if unknown else f"key {missing[0]!r} is missing"
        raise FormatError(f"{where}: {what}; it has {', '.join(known)}")
    hints = get_type_hints(cls)
    values = {name: _read(hints[name], one, f"{where}.{name}") for name, one in value.items()}
    try:
        return cls(**values)
    except ValueError as error:  # values that do not go with each other
        raise FormatError(f"{where}: {error}") from error


def _demand(fine: bool, value: Any, where: str, wanted: str) -> None:
    if not fine:
        raise FormatError(f"{where}: {str(value)[:40]!r} is not {wanted}")
