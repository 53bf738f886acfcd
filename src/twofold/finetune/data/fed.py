"""Input and MemoryData: rows that the caller gives from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from ...formats.caffe.net import LayerSpec
from ...formats.caffe.schema import MESSAGES
from .reader import Array, Items
from .registry import Request, register


@register("Input")
@register("MemoryData")
class FedItems(Items):
    """Arrays whose rows are the items, one array per top; they are taken in order, round and round."""

    def __init__(self, request: Request) -> None:
        spec, label = request.spec, request.label
        missing = [top for top in spec.tops if top not in request.fed]
        if missing:
            argument = "train_data" if request.phase == "TRAIN" else "test_data"
            raise InputError(
                f"{label}: reads no file, and nothing was given for {', '.join(map(repr, missing))}; "
                f"call finetune.train(..., {argument}={{{missing[0]!r}: rows, ...}}), or use a layer "
                "that names files"
            )
        self._columns = [np.asarray(request.fed[top]) for top in spec.tops]
        self.batch_size = _batch_size(spec)
        if not self.batch_size:
            raise InputError(f"{label}: says no shape, so the size of its batches is not known; state it")

    def __len__(self) -> int:
        return len(self._columns[0])

    def fetch(self, index: int) -> Sequence[Array]:
        """The row of every array."""
        return [column[index] for column in self._columns]

    def decode(self, stored: Any, draw: Callable[[], np.random.Generator]) -> Sequence[Array]:
        """The row as it is."""
        rows: Sequence[Array] = stored
        return rows


def _batch_size(spec: LayerSpec) -> int:
    """Of a layer of any type, whose rows are given instead of read; 0 where it says none."""
    for name, field in MESSAGES[spec.fields.type].items():
        if spec.fields.has(name) and "batch_size" in MESSAGES.get(field.type_name, ()):
            return spec.fields.message(name).integer("batch_size")
    shapes = spec.fields.message("input_param").messages("shape")
    return (shapes[0].integers("dim") or (0,))[0] if shapes else 0
