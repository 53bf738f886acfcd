"""What can go wrong, as few kinds. Every message says where, what was found, what is allowed, what to do."""

from __future__ import annotations


class TwofoldError(Exception):
    """Base of every error that twofold raises on purpose; the command line prints it as one line."""


class FormatError(TwofoldError):
    """A file is not what it should be: bad syntax, truncated, another format."""


class ModelError(TwofoldError):
    """The parts of a model do not fit each other: definition and weights, shapes, names."""


class PlanError(TwofoldError):
    """A plan cannot be made or applied: a budget out of reach, an unknown layer, another model."""


class InputError(TwofoldError):
    """Calibration inputs are missing, unreadable or of the wrong shape."""


class OutputError(TwofoldError):
    """Results cannot be written: files are in the way, the disk is full, the folder is read-only."""


class OptionError(TwofoldError):
    """An option has a value that is not allowed."""


class MissingExtraError(TwofoldError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs {package}, which is not installed: pip install 'twofold[{extra}]'")
