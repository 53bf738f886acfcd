"""The command that says what is installed and works."""

from __future__ import annotations

import json

from ..doctor import diagnose
from ..terminal import echo
from .common import AsJson


def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what extras would bring, which runtimes work.

    Example: twofold doctor
    """
    found = diagnose()
    echo(json.dumps(found.to_json(), indent=2) if as_json else found)
