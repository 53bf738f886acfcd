"""Training with Caffe's solvers: the same files, the same numbers, in torch."""

from ..errors import MissingExtraError

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise MissingExtraError("training", "PyTorch", "torch") from None

from .definition import SolverDefinition, read_solver
from .rates import POLICIES, Schedule
from .rules import RULES
from .snapshot import Snapshot, read_state
from .solver import Iteration, Solver

__all__ = [
    "POLICIES",
    "RULES",
    "Iteration",
    "Schedule",
    "Snapshot",
    "Solver",
    "SolverDefinition",
    "read_solver",
    "read_state",
]
