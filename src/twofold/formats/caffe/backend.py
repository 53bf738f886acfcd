"""What the entry of Caffe in `backends` names."""

from __future__ import annotations

import numpy as np

from ...conv import Size
from .model import CaffeModel
from .shapes import walk_shapes


def declared(model: CaffeModel) -> dict[str, tuple[Size | None, np.dtype[np.float32]]]:
    """Shape and type of every input that a layer reads; a shape is None where it is not known."""
    net = model.net("TEST")
    read = {name for spec in net.layers for name in spec.bottoms}
    single = np.dtype(np.float32)
    return {
        name: (shape, single)
        for spec, (_, tops) in zip(net.layers, walk_shapes(net, model.inputs), strict=True)
        for name, shape in tops.items()
        if not spec.bottoms and name in read and spec.type not in ("DummyData", "Parameter")
    }
