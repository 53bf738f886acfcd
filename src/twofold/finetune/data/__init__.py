"""What Caffe's data layers read: one file per type, found by the layer's type in a registry."""

from ...renamed import former_members

# Importing a file registers its types.
from . import database, fed, hdf5, images  # noqa: F401
from .batches import Batches
from .datum import Datum
from .locate import Locator
from .reader import Items, Reader
from .registry import Request, known_types, open_reader, register, unregister

__all__ = [
    "Batches",
    "Datum",
    "Items",
    "Locator",
    "Reader",
    "Request",
    "known_types",
    "open_reader",
    "register",
    "unregister",
]

__getattr__ = former_members(__name__, reads="register")
