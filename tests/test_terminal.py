"""What files say reaches the terminal as text: no control character is carried out, no line is faked."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
from tests.small import NET, write

from twofold.cli import main
from twofold.progress import _new_progress
from twofold.terminal import echo, one_line, say, visible, visible_lines
from twofold.text import aligned

#: A name as an attacker would choose it: clear the screen, a new line, C1 CSI, DEL, right to left.
HOSTILE = "a\x1b[2J\r\n\x9b31m\x7f\u202eb"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c]")


def test_every_control_character_is_written_as_an_escape():
    controls = [*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x61C]
    for code in controls:
        shown = visible(chr(code))
        assert shown.isprintable()
        assert ast_text(shown) == chr(code)
    assert visible("Größe 層 🙂 a\\b") == "Größe 層 🙂 a\\b"
    assert visible_lines("a\nb\x1b") == "a\nb\\x1b"
    assert one_line(" a:\n  b\r\n\tc ") == "a: b c"


def ast_text(shown: str) -> str:
    return shown.encode().decode("unicode_escape")


def test_a_name_with_a_line_end_does_not_break_a_table():
    lines = aligned([("layer", "n"), (HOSTILE, "1")], {1})
    assert len(lines) == 2
    assert not CONTROL.search("".join(lines))


def hostile_files(folder):
    escaped = HOSTILE.encode("utf-8")
    quoted = "".join(f"\\{byte:03o}" for byte in escaped)
    assert '"one"' in NET
    return write(folder, NET), NET.replace('name: "one"', f'name: "{quoted}"'), escaped


@pytest.mark.parametrize("command", ["inspect", "decompose"])
def test_hostile_names_are_shown_as_escapes_and_kept_in_json(command, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a\x1b[31mb\u202e"
    folder.mkdir()
    files, text, _ = hostile_files(folder)
    definition = folder / "net.prototxt"
    definition.write_text(text)
    monkeypatch.chdir(tmp_path)
    tail = ["-o", str(folder / "out"), "--no-data", "--no-report"] if command == "decompose" else []
    asked = [command, str(definition), *tail]
    code = main(asked if command == "inspect" else [command, str(definition), files[1], *tail])
    out, err = capsys.readouterr()
    assert code in (0, 1)
    assert not CONTROL.search(out + err)
    assert "\\x1b[2J" in out + err
    if command == "inspect":
        assert main([*asked, "--json"]) == 0
        assert HOSTILE in [layer["name"] for layer in json.loads(capsys.readouterr().out)["layers"]]


def test_a_rejection_of_several_lines_becomes_one(tmp_path, capsys):
    missing = tmp_path / "no\n\x1b[2Jsuch.prototxt"
    assert main(["inspect", str(missing)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_progress_bars_show_names_without_markup_or_escapes(monkeypatch):
    class Tty(io.StringIO):
        def isatty(self):
            return True

    tty = Tty()
    monkeypatch.setattr(sys, "stderr", tty)
    bars = _new_progress()
    with bars:
        bars.add_task(visible("hashing [red]\x1b]0;x"), total=1)
    assert "[red]\\x1b]0;x" in tty.getvalue()


def test_nothing_is_said_where_stderr_is_closed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    say("not a result")
    echo("a result")
    assert capsys.readouterr().out == "a result\n"
