"""Set before numpy is imported: BLAS threads of several test processes would fight for the same cores."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# A busy machine is slow, which says nothing about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run real models first: the longest takes two minutes, for which nobody should wait at the end."""
    items.sort(key=lambda item: item.get_closest_marker("models") is None)
