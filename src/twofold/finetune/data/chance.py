"""Random numbers without a state: what is drawn depends on a seed and on where in the training it is drawn.

So a training that goes on from a snapshot draws what it would have drawn, and so does every one of several
processes that share a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np


@dataclass(frozen=True)
class Chance:
    """The draws of one layer in one phase.

    Attributes:
        seed: of the training.
        name: tells the layer and the phase.
    """

    seed: int
    name: str

    def at(self, purpose: str, number: int) -> np.random.Generator:
        """The generator for draw `number` of a purpose: the order of an epoch, the crop of an image."""
        return np.random.default_rng((self.seed, crc32(f"{self.name}/{purpose}".encode()), number))
