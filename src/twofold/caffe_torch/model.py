"""Caffe models as torch modules, with their weights."""

from __future__ import annotations

from ..formats.caffe.model import CaffeModel
from .net import CaffeNet


def to_torch(model: CaffeModel, phase: str = "TEST", until: str | None = None) -> CaffeNet:
    """The net as a torch module with its weights; without weights its fillers' values.

    Args:
        model: what `twofold.load` gives for a prototxt.
        phase: "TEST" or "TRAIN".
        until: name of the last layer to build; None for all.

    Raises:
        ModelError: the weights do not fit the definition.
        FormatError: the weights are damaged.
    """
    net = model.net(phase)
    names = {spec.name for spec in net.layers}
    # The last of several entries counts, at its own place in the file: shared blobs are loaded in turn.
    entries = [
        entry
        for entry in (model.weights.layers if model.weights else ())
        if entry.name in names and model.weights and entry is model.weights.layer(entry.name)
    ]
    arrays = {entry.name: [blob.array() for blob in entry.blobs] for entry in entries if entry.blobs}
    return CaffeNet(net, arrays, until=until, shapes=model.inputs)
