"""Make trained convolutional networks faster by low-rank decomposition.

model = twofold.load("net.prototxt", "net.caffemodel")
result = twofold.decompose(model, macs=0.4)
print(result.plan)
result.save("out/")
"""

from . import start

start.guard()  # before the imports that take their time

# ruff: noqa: E402
from .amct import auto_decomposition
from .apply import apply_plan
from .calibrate import CalibrationSource
from .calibration.gather import CalibrationOptions
from .calibration.images import ImageOptions
from .compare import compare
from .conv import ConvGeometry, ConvLayer, Factors, Skipped
from .decompose import decompose
from .errors import TwofoldError
from .export import export
from .load import load
from .lowrank.schemes import SCHEMES
from .planning.plan import Plan
from .quantize import quantize
from .recover import RecoverOptions, recover
from .result import Result

__all__ = [
    "SCHEMES",
    "CalibrationOptions",
    "CalibrationSource",
    "ConvGeometry",
    "ConvLayer",
    "Factors",
    "ImageOptions",
    "Plan",
    "RecoverOptions",
    "Result",
    "Skipped",
    "TwofoldError",
    "apply_plan",
    "auto_decomposition",
    "compare",
    "decompose",
    "export",
    "load",
    "quantize",
    "recover",
]
