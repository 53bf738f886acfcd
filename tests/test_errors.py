"""Messages name options as whoever reads them would write them."""

from __future__ import annotations

import pytest
from tests.small import write

import twofold
from twofold.cli import main
from twofold.errors import command_line, option


def test_options_are_spelled_for_both_worlds():
    def spelled():
        return option("no_data=True"), option("latency_table"), option("ranks", "--rank")

    python = ("no_data=True", "latency_table", "ranks")
    assert spelled() == python
    with command_line():
        assert spelled() == ("--no-data", "--latency-table", "--rank")
    assert spelled() == python


def test_a_budget_out_of_reach_names_the_remedy_of_each_world(tmp_path, capsys):
    files = write(tmp_path)
    argv = ["decompose", *map(str, files), "-o", str(tmp_path / "out"), "--macs", "0.001", "--no-data"]
    assert main([*argv, "--skip", "one"]) == 1
    said = capsys.readouterr().err
    assert "--multiple below 16, fewer layers left out by --only and --skip" in said
    with pytest.raises(twofold.TwofoldError) as found:
        twofold.decompose(twofold.load(*files), macs=0.001, no_data=True, skip="one")
    assert "What would do: " in str(found.value)
    assert ", multiple below 16, fewer layers left out by only and skip" in str(found.value)
    assert "--" not in str(found.value)


def test_a_file_that_is_there_names_the_remedy_of_each_world(tmp_path, capsys):
    files = write(tmp_path)
    result = twofold.decompose(twofold.load(*files), macs=0.8, no_data=True)
    result.save(tmp_path / "out")
    more = twofold.decompose(twofold.load(*files), macs=0.5, no_data=True)
    with pytest.raises(twofold.TwofoldError, match="not overwritten without force=True"):
        more.save(tmp_path / "out")
    argv = ["decompose", *map(str, files), "-o", str(tmp_path / "out"), "--macs", "0.5", "--no-data"]
    assert main(argv) == 1
    assert "not overwritten without --force" in capsys.readouterr().err
