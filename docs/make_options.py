"""Writes docs/options.md: every command with its arguments and options, as its parser knows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from twofold.cli import app

PAGE = Path(__file__).with_name("options.md")
HEAD = """\
# Options

Every command with its arguments and options. `make docs` writes this page from the parsers themselves;
`twofold COMMAND --help` shows the same.

"""


def commands(group: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """Name and parser of every command, those of groups with the group's name before them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


def section(name: str, command: Any) -> str:
    """What is said of one command."""
    about, *examples = re.split(r"^\s*Example: ", command.help or "", flags=re.MULTILINE)
    parts = [f"## {name}", " ".join(about.split())]
    parts += ["```text\n" + "\n".join(" ".join(one.split()) for one in examples) + "\n```"]
    rows = [row(one) for one in command.params if one.name != "help"]
    parts.append("\n".join(["| option | meaning | default |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def row(param: Any) -> str:
    """One argument or option as a row of the table."""
    value = param.metavar or param.name.upper()
    if not param.opts[0].startswith("-"):  # an argument
        names = f"{value} ..." if param.nargs < 0 else value
    else:
        names = ", ".join([*sorted(param.opts, key=len), *param.secondary_opts]) + (
            "" if param.is_flag else f" {value}"
        )
    meaning = param.help or ""
    if getattr(param, "multiple", False):
        meaning = meaning.rstrip(".") + ". Can be given several times."
    cells = (f"`{names}`", escaped(meaning), default(param))
    return "| " + " | ".join(cells) + " |"


def default(param: Any) -> str:
    """What holds where it is not given."""
    if param.required:
        return "must be given"
    plain = param.default is None or callable(param.default) or param.default in (False, (), [], "")
    return "" if plain else f"`{param.default}`"


def escaped(text: str) -> str:
    """Text in a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def page() -> str:
    """The text of the page."""
    group = typer.main.get_command(app)
    return HEAD + "\n\n".join(section(name, command) for name, command in commands(group)) + "\n"


def main() -> int:
    """Write the page; gives the exit code."""
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
