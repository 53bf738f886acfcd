"""Factorizing one convolution: pure arrays, one decomposition, every rank."""

from twofold.lowrank.correct import corrected_stack
from twofold.lowrank.measure import composed, energy_error
from twofold.lowrank.metric import LayerFit
from twofold.lowrank.options import REFINE, FitOptions
from twofold.lowrank.schemes import SCHEMES, Factorization, Scheme, register, scheme

__all__ = [
    "REFINE",
    "SCHEMES",
    "Factorization",
    "FitOptions",
    "LayerFit",
    "Scheme",
    "composed",
    "corrected_stack",
    "energy_error",
    "register",
    "scheme",
]
