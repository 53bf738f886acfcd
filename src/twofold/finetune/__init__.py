"""Training with Caffe's solvers: the same files, the same numbers, in torch."""

from ..errors import MissingExtraError

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise MissingExtraError("training", "PyTorch", "caffe-train") from None

from .definition import SolverDefinition, read_solver
from .options import Outcome, TrainOptions
from .rates import POLICIES, Schedule
from .rules import RULES
from .snapshot import Snapshot
from .solver import Iteration, Solver
from .storage import read_state
from .train import snapshot_prefix, train

__all__ = [
    "POLICIES",
    "RULES",
    "Iteration",
    "Outcome",
    "Schedule",
    "Snapshot",
    "Solver",
    "SolverDefinition",
    "TrainOptions",
    "read_solver",
    "read_state",
    "snapshot_prefix",
    "train",
]
