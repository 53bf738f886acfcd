"""The former name of `twofold.amct.torch`, kept for one release."""

from .amct.torch import auto_decomposition, decompose_network

__all__ = ["auto_decomposition", "decompose_network"]
