"""One page that shows what was done: made from a value that is kept as JSON beside the model."""

from .data import Made, Report, Training
from .make import of_comparison, of_quantization, of_result, of_training, write

__all__ = [
    "Made",
    "Report",
    "Training",
    "of_comparison",
    "of_quantization",
    "of_result",
    "of_training",
    "write",
]
