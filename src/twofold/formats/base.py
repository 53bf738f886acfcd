"""What every format shares: atomic writing of several files as one."""

from __future__ import annotations

from .atomic import commit, recover

__all__ = ["commit", "recover"]
