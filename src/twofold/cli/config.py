"""Options of a command in a TOML file: `--config run.toml`. What the command line says goes before it.

    definition = "net.onnx"
    output = "out/"
    macs = 0.4
    images = "photos/"

Source: TOML 1.0.0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import OptionError
from ..system import reading

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Written beside the plan.
FILE = "run.toml"
_HEAD = "# The options of this run; to repeat it: twofold {} --config FILE\n"


def _apply(context: typer.Context, path: Path | None) -> None:
    """Make what a file says the defaults of the command.

    Raises:
        OptionError: the file is no TOML, or names what is no option of the command.
    """
    if path is None or context.resilient_parsing:
        return
    with reading(path, "a TOML file", error=OptionError):
        given = tomllib.loads(path.read_bytes().decode())
    known = _keys(context)
    defaults: dict[str, Any] = dict(context.default_map or {})
    for key, value in given.items():
        parameter = known.get(key)
        if parameter is None:
            close = get_close_matches(key, known, 3) or sorted(known)
            raise OptionError(
                f"{path}: {key} is no option of {context.info_name}; did you mean {', '.join(close)}?"
            )
        several = parameter.multiple or parameter.nargs == -1
        if isinstance(value, Mapping) or (isinstance(value, list) and not several):
            raise OptionError(f"{path}: {key} takes one value, found {json.dumps(value, default=str)}")
        defaults[parameter.name] = [value] if several and not isinstance(value, list) else value
    context.default_map = defaults


def _keys(context: typer.Context) -> dict[str, Any]:
    """Name of each option and argument, as in a file -> the parameter."""
    return {_key(one): one for one in context.command.params if one.name not in ("help", "config", "context")}


def _key(parameter: Any) -> str:
    longest = max(parameter.opts, key=len)
    return str(parameter.name if not longest.startswith("-") else longest.lstrip("-"))


@dataclass(frozen=True)
class Run:
    """A run of a command: what it was given, by command line or file.

    Attributes:
        command: its name.
        given: parameters and their values.
    """

    command: str
    given: Sequence[tuple[Any, Any]]


def of_run(context: typer.Context, **instead: Any) -> Run:
    """The run of one model.

    Args:
        context: of the command.
        instead: values of parameters where another was given, since that was of several models; empty ones
            are left out.
    """
    given = [(parameter, instead.get(parameter.name, value)) for parameter, value in _given(context)]
    names = {parameter.name for parameter, _ in given}
    more = [(one, instead[one.name]) for one in _keys(context).values() if one.name in {*instead} - names]
    chosen = [(one, value) for one, value in (*given, *more) if value not in ((), [], None)]
    order = [parameter.name for parameter in context.command.params]
    return Run(str(context.info_name), sorted(chosen, key=lambda pair: order.index(pair[0].name)))


def run_file(run: Run) -> bytes:
    """The options that a run was given, by command line or file, as a file that repeats it.

    Names of files that are no Unicode have no place in TOML: such options are named in a comment.
    """
    lines = [_HEAD.format(run.command)]
    for parameter, value in run.given:
        key = _key(parameter)
        line = f"{key} = {_toml(value)}\n"
        lines.append(line if _is_unicode(line) else f"# {key} is no Unicode; give it on the command line\n")
    return "".join(lines).encode()


def command_words(run: Run) -> tuple[str, ...]:
    """The command line that repeats a run, word by word, with the options that a file gave."""
    arguments: list[str] = []
    options: list[str] = []
    for parameter, value in run.given:
        if parameter.param_type_name == "argument":
            arguments += map(str, value if parameter.nargs == -1 else [value])
        elif isinstance(value, bool):
            options += [min(parameter.opts, key=len)] if value else parameter.secondary_opts[:1]
        else:
            for one in value if parameter.multiple else [value]:
                values = one if isinstance(one, (list, tuple)) else [one]
                options += [min(parameter.opts, key=len), *map(str, values)]
    return ("twofold", run.command, *arguments, *options)


def _given(context: typer.Context) -> Iterator[tuple[Any, Any]]:
    """What a run was given, by command line or file: the parameter and its value."""
    for parameter in _keys(context).values():
        source = context.get_parameter_source(parameter.name)
        if source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP"):
            yield parameter, context.params[parameter.name]


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Read options from a TOML file, such as the run.toml of a run; the command line has precedence.",
        is_eager=True,
        callback=_apply,
    ),
]
