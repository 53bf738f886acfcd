"""`decompose` with several models: a folder for each, a line for each, and none stops the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.small import NET, write

import twofold
from twofold.cli import main

QUICK = ["--no-data", "--no-report", "--macs", "0.5", "--multiple", "4"]


@pytest.fixture
def nets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        for path in map(Path, write(tmp_path / name)):
            path.rename(tmp_path / f"{name}{path.suffix}")
    return tmp_path


def words(*names: str) -> list[str]:
    return [f"{name}.{suffix}" for name in names for suffix in ("prototxt", "caffemodel")]


def test_each_has_a_folder_and_a_line(nets, capsys):
    assert main(["decompose", *words("first", "second"), "-o", "out", *QUICK]) == 0
    printed = capsys.readouterr()
    assert "1 of 2: first.prototxt" in printed.err
    table = printed.out.splitlines()
    assert [line.split()[0] for line in table] == ["model", "first.prototxt", "second.prototxt"]
    assert all("not measured" in line for line in table[1:])
    for name in ("first", "second"):
        alone = nets / "alone" / name
        assert main(["decompose", *words(name), "-o", str(alone), *QUICK]) == 0
        made = nets / "out" / name
        assert {path.name for path in made.iterdir()} == {path.name for path in alone.iterdir()}
        for file in (*words(name), "plan.json"):
            assert (made / file).read_bytes() == (alone / file).read_bytes()
        # What is written beside it repeats this one.
        text = (made / "run.toml").read_text()
        assert f'definition = "{name}.prototxt"' in text
        assert "others" not in text
        assert main(["decompose", "--config", str(made / "run.toml"), "-o", f"again-{name}"]) == 0


def test_one_that_fails_does_not_stop_the_others(nets, capsys):
    Path("second.caffemodel").write_bytes(b"no weights")
    write(nets, NET)
    assert main(["decompose", *words("first", "second", "net"), "-o", "out", *QUICK, "--json"]) == 1
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [bool(row["problem"]) for row in rows] == [False, True, False]
    assert "second.caffemodel" in rows[1]["problem"]
    assert rows[0]["macs"] <= 0.5
    assert rows[1]["macs"] is None
    assert rows[1]["problem"] in printed.err
    assert {path.name for path in Path("out").iterdir()} == {"first", "net"}


def test_quiet_says_nothing_but_the_table(nets, capsys):
    assert main(["decompose", *words("first", "second"), "-o", "out", *QUICK, "--quiet"]) == 0
    assert "of 2" not in capsys.readouterr().err


def test_onnx_files_and_a_format_that_holds_its_weights(nets, capsys):
    model = twofold.load("first.prototxt", "first.caffemodel")
    for name in ("one.onnx", "two.onnx"):
        twofold.export(model, name)
    assert main(["decompose", "one.onnx", "two.onnx", *words("first"), "-o", "out", *QUICK]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["first", "one", "two"]
    assert "one.onnx" in capsys.readouterr().out


def test_names_that_are_told_apart_by_their_folders(nets, capsys):
    for name in ("a", "b"):
        (nets / name).mkdir()
        write(nets / name)
    files = [f"{name}/net.{suffix}" for name in ("a", "b") for suffix in ("prototxt", "caffemodel")]
    assert main(["decompose", *files, "-o", "out", *QUICK]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["a-net", "b-net"]
    capsys.readouterr()
    assert main(["decompose", *files, *files[:2], "-o", "other", *QUICK]) == 1
    printed = capsys.readouterr()
    assert "would both be written into" in printed.err
    assert not printed.out
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["first.prototxt"], "give its weights after it"),
        ([*words("second"), "--statistics", "seen.npz"], "--statistics"),
        ([*words("second"), "--dry-run"], "--dry-run: takes one model"),
        (["second.caffemodel", "second.prototxt"], "followed by its weights"),
    ],
)
def test_what_is_rejected_before_the_work(nets, capsys, more, reason):
    assert main(["decompose", *words("first"), *more, "-o", "out", *QUICK]) == 1
    assert reason in capsys.readouterr().err
    assert not Path("out").exists()
