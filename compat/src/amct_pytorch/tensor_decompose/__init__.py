"""AMCT's tensor decomposition of PyTorch modules, done by twofold."""

from twofold.amct.torch import auto_decomposition, decompose_network

__all__ = ["auto_decomposition", "decompose_network"]
