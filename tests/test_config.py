"""`--config`: options in a file, and the file that every run writes."""

from __future__ import annotations

import os

import pytest
from tests.small import write

from twofold.cli import main


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    return tmp_path


QUICK = ["--no-data", "--no-report"]


def test_a_run_is_repeated_from_the_file_that_it_wrote(net):
    assert (
        main(
            [
                "decompose",
                "net.prototxt",
                "net.caffemodel",
                "-o",
                "a b",
                "--macs",
                "0.5",
                "--skip",
                "one",
                *QUICK,
            ]
        )
        == 0
    )
    text = (net / "a b" / "run.toml").read_text()
    assert 'macs = "0.5"' in text
    assert 'skip = ["one"]' in text
    assert "multiple" not in text  # a default that nobody gave
    assert main(["decompose", "--config", "a b/run.toml", "--output", "again"]) == 0
    for name in ("net.prototxt", "net.caffemodel", "plan.json"):
        assert (net / "again" / name).read_bytes() == (net / "a b" / name).read_bytes()


def test_the_command_line_goes_before_the_file(net):
    (net / "run.toml").write_text(
        'definition = "net.prototxt"\nweights = "net.caffemodel"\noutput = "from-file"\nmacs = 0.5\n'
        "no-data = true\nno-report = true\nmultiple = 8\n"
    )
    assert main(["decompose", "--config", "run.toml", "-o", "out", "--multiple", "4"]) == 0
    assert not (net / "from-file").exists()
    assert 'multiple = "4"' in (net / "out" / "run.toml").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mac = 0.5", "mac is no option of decompose; did you mean macs"),
        ("macs = [0.5, 0.4]", "macs takes one value"),
        ("[macs]\nr = 1", "macs takes one value"),
        ("macs = ", "run.toml: is not a TOML file"),
        ("macs = 0.5\x00", "run.toml: is not a TOML file"),
    ],
)
def test_a_bad_file_is_one_line(net, capsys, text, message):
    (net / "run.toml").write_text(text)
    assert main(["decompose", "net.prototxt", "net.caffemodel", "-o", "out", "--config", "run.toml"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (net / "out").exists()


def test_names_that_toml_cannot_hold_are_left_to_the_command_line(net):
    odd = os.fsdecode(b"caf\xe9\n[x]")
    (net / "net.caffemodel").rename(net / "two\nlines.caffemodel")
    files = ["net.prototxt", "two\nlines.caffemodel"]
    assert main(["decompose", *files, "-o", odd, "--macs", "0.5", *QUICK]) == 0
    text = (net / odd / "run.toml").read_text()
    assert "# output is no Unicode" in text
    assert main(["decompose", "--config", f"{odd}/run.toml", "-o", "again"]) == 0
    assert (net / "again" / "plan.json").exists()


def test_a_file_that_is_missing_is_named(net, capsys):
    assert main(["decompose", "net.prototxt", "--config", "none.toml", "-o", "out"]) == 1
    assert "none.toml: cannot read a TOML file" in capsys.readouterr().err
