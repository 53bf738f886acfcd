"""What Caffe's data layers read: one file per kind, found by the layer's type in a registry."""

# Importing a kind registers it.
from . import database, fed, hdf5, images  # noqa: F401
from .batches import Batches
from .datum import Datum
from .locate import Locator
from .reader import Items, Reader
from .registry import Request, known_types, open_reader, reads

__all__ = [
    "Batches",
    "Datum",
    "Items",
    "Locator",
    "Reader",
    "Request",
    "known_types",
    "open_reader",
    "reads",
]
