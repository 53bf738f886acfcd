"""One page that shows what was done: made from a value that is kept as JSON beside the model."""

from .data import Made, Recovered, Report, Training
from .make import (
    files_of,
    of_comparison,
    of_quantization,
    of_recovery,
    of_result,
    of_training,
    report,
    training_of,
    write,
)
from .page import files

__all__ = [
    "Made",
    "Recovered",
    "Report",
    "Training",
    "files",
    "files_of",
    "of_comparison",
    "of_quantization",
    "of_recovery",
    "of_result",
    "of_training",
    "report",
    "training_of",
    "write",
]
