"""Factorizing one convolution: pure arrays, one decomposition, every rank."""

from twofold.lowrank.correct import corrected_stack
from twofold.lowrank.measure import composed, energy_error
from twofold.lowrank.metric import LayerFit
from twofold.lowrank.options import REFINE, FitOptions
from twofold.lowrank.protocols import Factorization, RankErrors, Scheme
from twofold.lowrank.schemes import SCHEMES, register, scheme

__all__ = [
    "REFINE",
    "SCHEMES",
    "Factorization",
    "FitOptions",
    "LayerFit",
    "RankErrors",
    "Scheme",
    "composed",
    "corrected_stack",
    "energy_error",
    "register",
    "scheme",
]
