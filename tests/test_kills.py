"""A bounded part of `fuzz.kills`: commands that are killed, and run again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CODE = """
import json, sys
from fuzz.kills import attack, killer
from fuzz.worlds import COMMANDS, run, world
with world(late=False) as folder:
    typed = COMMANDS["weights"]
    count = run(folder, typed, lambda: killer(0)).count
    problems = [attack(folder, typed, count - count // 6, over=True)]
    problems.append(attack(folder, COMMANDS["report"], 9, over=False))
print(json.dumps([count, problems]))
"""


def test_a_command_that_is_killed_loses_nothing_and_leaves_nothing():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE], cwd=Path(__file__).parents[1], capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, problems = json.loads(done.stdout)
    assert count > 30
    assert problems == ["", ""]
