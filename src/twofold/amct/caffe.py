"""AMCT's call `auto_decomposition` for Caffe, with its arguments and its result."""

from __future__ import annotations

from pathlib import Path

from ..decomposition.decompose import decompose
from ..errors import OptionError
from ..formats.base import output_path, preflight
from ..formats.caffe.model import CaffeModel
from ..system import real
from ..terminal import echo


def auto_decomposition(
    model_file: str | Path, weights_file: str | Path, new_model_file: str | Path, new_weights_file: str | Path
) -> None:
    """Decompose a Caffe model as AMCT's function of this name does, better.

    Spends the MACs that AMCT's rule would spend, and never more, but spreads them over the layers so that the
    error is smallest. Outputs that exist are exchanged, as AMCT does; the inputs are not.

    Args:
        model_file: the definition (prototxt).
        weights_file: the weights (caffemodel).
        new_model_file: where the new definition goes.
        new_weights_file: where the new weights go.

    Raises:
        OptionError: an output is one of the inputs.
        TwofoldError: anything else that `load`, `decompose` and `save` reject.
    """
    for new in (new_model_file, new_weights_file):
        for old in (model_file, weights_file):
            if real(new) == real(old):
                raise OptionError(f"{new} is an input; give another place for the output")
    preflight([output_path(new_model_file), output_path(new_weights_file)])
    result = decompose(CaffeModel.load(model_file, weights_file))
    result.model.save(new_model_file, new_weights_file, force=True, check=result.check)
    echo(result.plan)
    if not result.plan.choices:
        echo("no convolution was decomposed; the files were copied unchanged")
