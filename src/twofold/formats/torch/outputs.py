"""What a forward returned, as tensors by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def flat(result: Any) -> dict[str, Tensor]:
    """The tensors in a result: "output" alone, else "0", "1" in tuples, keys of dicts, joined by dots."""
    return dict(_flat(result, ""))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path or "output", value
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Mapping)):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        inner: Any = value.items()
    elif isinstance(value, (tuple, list)):
        inner = zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    else:  # None, numbers and the like
        return
    for key, one in inner:
        yield from _flat(one, f"{path}.{key}" if path else str(key))
