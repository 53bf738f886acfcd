"""Tables of times go into a folder of the test's own."""

from __future__ import annotations

import pytest

from twofold.latency.table import CACHE_VARIABLE


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "latency-cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder
