"""Set before numpy is imported: BLAS threads of several test processes would fight for the same cores."""

from __future__ import annotations

import os

from hypothesis import settings

# A busy machine is slow, which says nothing about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
