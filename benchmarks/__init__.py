"""What twofold does to real models, measured: each module checks the answer before the clock.

Nothing is cached: what an earlier run has computed must not make a later one look fast.
"""

import os

os.environ["TWOFOLD_CACHE"] = ""
