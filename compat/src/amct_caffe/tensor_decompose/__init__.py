"""AMCT's tensor decomposition, done by twofold."""

from twofold import auto_decomposition

__all__ = ["auto_decomposition"]
