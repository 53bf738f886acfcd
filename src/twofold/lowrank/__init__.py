"""Factorizing one convolution: pure arrays, one decomposition, every rank."""

from twofold.lowrank.options import FitOptions
from twofold.lowrank.schemes import SCHEMES, Factorization, Scheme, register, scheme

__all__ = ["SCHEMES", "Factorization", "FitOptions", "Scheme", "register", "scheme"]
