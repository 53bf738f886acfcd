"""Names of functions that are imported when they are needed: an extra, or what stands further up.

A name is a promise and no import: what holds one works without what it names. The layering test counts such
names as none, so they are for three things only: backends of formats, former spellings, views in notebooks.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def resolve(name: str) -> Any:
    """What a name stands for.

    Args:
        name: "package.module:name".

    Raises:
        ImportError: the module, or something that it needs, is not installed.
    """
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
