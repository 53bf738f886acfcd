"""Make trained convolutional networks faster by low-rank decomposition.

model = twofold.load("net.prototxt", "net.caffemodel")
result = twofold.decompose(model, macs=0.4)
print(result.plan)
result.save("out/")
"""

import sys
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING

from . import start, views

start.guard()  # before the imports that take their time

if TYPE_CHECKING:
    from .amct.caffe import auto_decomposition
    from .backends import load
    from .calibration.gather import CalibrationOptions
    from .calibration.images import ImageOptions
    from .calibration.source import CalibrationSource
    from .compare import compare
    from .conv import ConvGeometry, ConvLayer, Factors, Skipped
    from .decomposition.apply import apply_plan
    from .decomposition.decompose import decompose
    from .decomposition.result import Result
    from .errors import TwofoldError
    from .export import export
    from .inspect import inspect
    from .int8.quantize import quantize
    from .latency.choose import RuntimeOptions
    from .lowrank.options import FitOptions
    from .lowrank.schemes import SCHEMES
    from .planning.budget import Budget
    from .planning.options import PlanOptions
    from .planning.plan import Plan
    from .recover import RecoverOptions, recover
    from .report import report

#: Where each public name stands; it is imported when it is first used, since scipy takes its time.
_HOMES = {
    "SCHEMES": "lowrank.schemes",
    "Budget": "planning.budget",
    "CalibrationOptions": "calibration.gather",
    "CalibrationSource": "calibration.source",
    "ConvGeometry": "conv",
    "ConvLayer": "conv",
    "Factors": "conv",
    "FitOptions": "lowrank.options",
    "ImageOptions": "calibration.images",
    "Plan": "planning.plan",
    "PlanOptions": "planning.options",
    "RecoverOptions": "recover",
    "Result": "decomposition.result",
    "RuntimeOptions": "latency.choose",
    "Skipped": "conv",
    "TwofoldError": "errors",
    "apply_plan": "decomposition.apply",
    "auto_decomposition": "amct",
    "compare": "compare",
    "decompose": "decomposition.decompose",
    "export": "export",
    "inspect": "inspect",
    "load": "backends",
    "quantize": "int8.quantize",
    "recover": "recover",
    "report": "report",
}

views.register("twofold.decomposition.result:Result", "twofold.report.notebook:fragment")

__version__ = version("twofold")

__all__ = [
    "SCHEMES",
    "Budget",
    "CalibrationOptions",
    "CalibrationSource",
    "ConvGeometry",
    "ConvLayer",
    "Factors",
    "FitOptions",
    "ImageOptions",
    "Plan",
    "PlanOptions",
    "RecoverOptions",
    "Result",
    "RuntimeOptions",
    "Skipped",
    "TwofoldError",
    "apply_plan",
    "auto_decomposition",
    "compare",
    "decompose",
    "export",
    "inspect",
    "load",
    "quantize",
    "recover",
    "report",
]


class _Package(ModuleType):
    """Keeps `twofold.compare` the function, where the import system would put the module of that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
