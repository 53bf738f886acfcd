"""Completion in the shells themselves: with the script, Tab completes commands, options and files."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

import pytest

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A home with a file to complete and the program on the path."""
    program = tmp_path / "bin" / "twofold"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m twofold "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unique_net.prototxt").write_text("")
    return tmp_path


@pytest.fixture(params=SHELLS)
def shell(request, place):
    """A shell that is installed, its script in the file `script`."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    script = subprocess.run(
        ["twofold"], env={**os.environ, "_TWOFOLD_COMPLETE": f"source_{request.param}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (place / "script").write_text(script.stdout)
    return request.param


START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source ./script"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u; source ./script"),
    "fish": (["fish", "--no-config", "-i"], "source ./script"),
}


def completed(shell: str, line: str) -> str:
    """The line as it stands after Tab."""
    if shell == "fish":  # fish itself says what Tab offers
        found = subprocess.run(
            ["fish", "--no-config", "-c", "source ./script; complete --do-complete $argv[1]", line],
            capture_output=True, text=True, check=True, timeout=1200,
        )  # fmt: skip
        (only,) = found.stdout.splitlines()
        return line.rpartition(" ")[0] + " " + only.partition("\t")[0]
    return typed(*START[shell], line)


def typed(command: list[str], setup: str, line: str) -> str:
    """Type a line and Tab; then put it between brackets for `echo`, which says what it has become."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    ) as process:
        os.close(slave)
        try:
            os.write(master, f"PS1='> '; {setup}; echo rea''dy\n".encode())
            read_until(master, "\n(ready)")
            os.write(master, f"{line}\t\x01echo '[\x05]'\n".encode())  # to its beginning, to its end
            return read_until(master, r"\n\[(.*?) *\]")
        finally:
            process.kill()
            os.close(master)


def read_until(master: int, pattern: str, seconds: float = 1200) -> str:
    """What a pattern matches in what the shell says."""
    text, end = "", time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([master], [], [], left)[0]:
            text += os.read(master, 4096).decode(errors="replace")
        if found := re.search(pattern, text):
            return found[1]
    raise AssertionError(f"no {pattern!r} within {seconds} s: {text!r}")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("twofold deco", "twofold decompose"),
        ("twofold latency sh", "twofold latency show"),
        ("twofold decompose --accuracy-", "twofold decompose --accuracy-drop"),
        ("twofold decompose --latency-t", "twofold decompose --latency-table"),
        ("twofold inspect uniq", "twofold inspect unique_net.prototxt"),
    ],
)
def test_tab_completes(shell, line, wanted):
    assert completed(shell, line).startswith(wanted)
