"""What the pages tell the reader to type works: every Python block and every command runs, page by page."""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from tests.docs.world import write_world

import twofold
from twofold.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Python with placeholders says so by this.
PLACEHOLDER = "=..."


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with everything that the pages name."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Results that pages share, as those of a reader who follows them: most begin with the same net."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def world(prepared, kept, tmp_path, monkeypatch):
    """A copy of it, which is the working directory; times that are measured stay in it."""
    shutil.copytree(prepared, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TWOFOLD_LATENCY_CACHE", str(tmp_path / "times"))
    monkeypatch.setenv("TWOFOLD_CACHE", str(kept))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """Language, text and line of every block that is to be run."""
    text = page.read_text()
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(one[1], one[2], text[: one.start(2)].count("\n")) for one in found]


def commands(text: str) -> list[str]:
    """The lines of a block that call twofold, without what is said behind them."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0] for line in lines if line.startswith("twofold ")]


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning")  # Lightning's, of PyTorch
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page, world, capsys):
    names: dict[str, object] = {"__name__": "__main__"}
    for language, text, line in blocks(page):
        if language == "python" and PLACEHOLDER not in text:
            exec(compile("\n" * line + text, str(page), "exec"), names)
        elif language == "sh" or (page.name == "README.md" and not language):
            for command in commands(text):
                code = main(shlex.split(command)[1:])
                assert code == 0, f"{page.name}: {command}: {capsys.readouterr().err}"


def test_sh_blocks_hold_nothing_that_is_not_run():
    for page in PAGES[1:]:
        for language, text, _ in blocks(page):
            if language == "sh":
                lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
                assert len(commands(text)) == len(lines), f"{page.name}: use ```text for what is not run"


def public() -> list[str]:
    return [name for name in twofold.__all__ if name != "SCHEMES"]


@pytest.mark.parametrize("name", public())
def test_examples_of_docstrings_run(name, world):
    finder = doctest.DocTestFinder(recurse=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for found in finder.find(getattr(twofold, name), name, globs={"twofold": twofold}):
        runner.run(found)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize(
    "name", ["load", "decompose", "compare", "apply_plan", "export", "quantize", "recover"]
)
def test_the_main_functions_have_examples(name):
    assert ">>> " in (getattr(twofold, name).__doc__ or "")


def test_the_pages_name_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text()
    assert set(twofold.__all__) <= set(re.findall(r"^::: twofold(?:\.\w+)*\.(\w+)$", page, re.MULTILINE))
