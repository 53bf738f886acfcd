"""What a solver prototxt says."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import FormatError, OptionError
from ..formats.caffe.fields import Fields
from ..formats.caffe.prototxt import Document, parse

#: `solver_type` of older files -> `type`.
_OLD_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}


#: Options that change nothing here, and why.
UNHEEDED = {
    "solver_mode": "the device is chosen by --device",
    "device_id": "the device is chosen by --device",
    "debug_info": "nothing is logged for every layer",
    "layer_wise_reduce": "processes exchange gradients as PyTorch does it",
}


@dataclass(frozen=True)
class SolverDefinition:
    """The options of a solver, with Caffe's names and defaults.

    Attributes:
        type: update rule: SGD, Nesterov, AdaGrad, RMSProp, AdaDelta or Adam.
        base_lr: learning rate that the policy varies.
        lr_policy: how; see `rates.POLICIES`.
        gamma: of the policies exp, step, multistep, inv and sigmoid.
        power: of the policies inv and poly.
        stepsize: of the policies step and sigmoid, in iterations.
        stepvalue: of the policy multistep, in iterations.
        max_iter: iterations in all; of the policy poly, too.
        momentum: of SGD, Nesterov, AdaDelta, and Adam's first.
        momentum2: Adam's second.
        rms_decay: of RMSProp.
        delta: what keeps divisors from 0.
        weight_decay: strength of the regularization.
        regularization_type: L2 or L1.
        clip_gradients: largest norm of all gradients together; negative for no limit.
        iter_size: passes whose gradients are averaged in one iteration.
        snapshot: iterations between snapshots; 0 for none.
        snapshot_prefix: path before `_iter_N.caffemodel`.
        snapshot_format: BINARYPROTO or HDF5.
        snapshot_after_train: whether the last iteration is followed by a snapshot.
        display: iterations between lines of the log; 0 for none.
        average_loss: iterations over which the displayed loss is averaged.
        random_seed: negative for none.
        test_iter: batches of a test, per test net.
        test_interval: iterations between tests; 0 for none.
        test_initialization: whether a test stands before the first iteration.
        test_compute_loss: whether a test gives the sum of its losses, too.
        weights: files to begin with; several in one text are separated by commas.
        net: prototxt for training and testing.
        train_net: prototxt for training alone.
        test_net: prototxts for testing.
    """

    type: str = "SGD"
    base_lr: float = 0.0
    lr_policy: str = ""
    gamma: float = 0.0
    power: float = 0.0
    stepsize: int = 0
    stepvalue: tuple[int, ...] = ()
    max_iter: int = 0
    momentum: float = 0.0
    momentum2: float = 0.999
    rms_decay: float = 0.99
    delta: float = 1e-8
    weight_decay: float = 0.0
    regularization_type: str = "L2"
    clip_gradients: float = -1.0
    iter_size: int = 1
    snapshot: int = 0
    snapshot_prefix: str = ""
    snapshot_format: str = "BINARYPROTO"
    snapshot_after_train: bool = True
    display: int = 0
    average_loss: int = 1
    random_seed: int = -1
    test_iter: tuple[int, ...] = ()
    test_interval: int = 0
    test_initialization: bool = True
    test_compute_loss: bool = False
    weights: tuple[str, ...] = ()
    net: str = ""
    train_net: str = ""
    test_net: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.iter_size < 1:
            raise OptionError(f"iter_size is {self.iter_size}; it must be at least 1")
        if self.regularization_type not in ("L1", "L2"):
            raise OptionError(f"regularization_type is {self.regularization_type!r}; Caffe knows L1 and L2")
        if self.snapshot_format not in ("BINARYPROTO", "HDF5"):
            raise OptionError(f"snapshot_format is {self.snapshot_format}; Caffe knows BINARYPROTO and HDF5")
        if self.average_loss < 1:
            raise OptionError(f"average_loss is {self.average_loss}; it must be at least 1")

    @classmethod
    def of(cls, param: Fields) -> SolverDefinition:
        """The definition that a SolverParameter gives.

        Raises:
            OptionError: a value that Caffe rejects.
        """
        if param.flag("snapshot_diff"):
            raise OptionError(
                "snapshot_diff asks for gradients in snapshots, which are not written; remove it"
            )
        values: dict[str, Any] = {
            field.name: tuple(param.all(field.name))
            if isinstance(field.default, tuple)
            else param.get(field.name)
            for field in fields(cls)
        }
        if param.has("solver_type"):
            if param.has("type"):
                raise OptionError("the solver has both type and the older solver_type; Caffe allows one")
            values["type"] = _OLD_TYPES[param.text("solver_type")]
        return cls(**values)


def read_solver(path: str | Path) -> SolverDefinition:
    """Read a solver prototxt.

    Raises:
        FormatError: it cannot be read, or is no solver.
        OptionError: a value that Caffe rejects.
    """
    return SolverDefinition.of(read_document(path).root.to_fields())


def read_document(path: str | Path) -> Document:
    """Read the text of a solver.

    Raises:
        FormatError: it cannot be read, or is no solver.
    """
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot read the solver: {error.strerror or error}") from error
    return parse(source, str(path), "SolverParameter")
