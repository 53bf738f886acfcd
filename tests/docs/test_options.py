"""The page of options says what the parsers know."""

from __future__ import annotations

import re

from docs.make_options import PAGE, page
from tests.test_cli import commands

from twofold.cli import main


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run: python -m docs.make_options"


def test_every_command_is_there_with_its_example():
    text = PAGE.read_text()
    assert sorted(re.findall(r"^## (.*)$", text, re.MULTILINE)) == sorted(" ".join(one) for one in commands())
    for command in commands():
        assert f"\ntwofold {' '.join(command)}" in text


def test_options_show_values_defaults_and_flags():
    text = PAGE.read_text().partition("## decompose\n")[2].partition("\n## ")[0]
    assert (
        "| `DEFINITION` | The net: a Caffe prototxt, an ONNX model, or a folder with one. | must be given |"
        in text
    )
    assert "| `-o, --output FOLDER` | Folder for the new files. | must be given |" in text
    assert re.search(r"\| `--multiple N` \| .* \| `16` \|", text)
    assert "| `--no-report` | Write no report.html beside the result. |  |" in text
    assert re.search(r"\| `--rank .*` \| .*Can be given several times", text)


def test_help_names_no_type_where_an_option_is_given_nothing(capsys):
    assert main(["decompose", "--help"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"--force +Overwrite existing files", text)
    assert "bool" not in text
