"""What works with the dependencies alone, from end to end: `nox` runs it with old and new ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.small import write


def twofold(folder: Path, *argv: str) -> str:
    """Run the command line; gives what it says."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "twofold", *argv],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_names_the_options_of_a_command(tmp_path):
    text = twofold(tmp_path, "decompose", "--help")
    assert "Usage: twofold decompose" in text
    assert "--macs" in text


def test_a_caffe_net_from_the_files_to_the_report(tmp_path):
    files = [Path(name).name for name in write(tmp_path)]
    assert json.loads(twofold(tmp_path, "inspect", *files, "--json"))
    twofold(tmp_path, "decompose", *files, "-o", "out", "--macs", "0.5", "--scheme", "spatial")
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert 0 < plan["totals"]["macs_ratio"] <= 0.5
    twofold(tmp_path, "apply", "out/plan.json", *files, "-o", "again")
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    (tmp_path / "out" / "report.html").unlink()
    twofold(tmp_path, "report", "out")
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
