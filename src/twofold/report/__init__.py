"""One page that shows what was done: made from a value that is kept as JSON beside the model."""

from .data import Made, Recovered, Report, Training
from .make import of_comparison, of_quantization, of_recovery, of_result, of_training, write

__all__ = [
    "Made",
    "Recovered",
    "Report",
    "Training",
    "of_comparison",
    "of_quantization",
    "of_recovery",
    "of_result",
    "of_training",
    "write",
]
