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
from collections.abc import Mapping
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
        if isinstance(value, Mapping) or (isinstance(value, list) and not parameter.multiple):
            raise OptionError(f"{path}: {key} takes one value, found {json.dumps(value, default=str)}")
        many = parameter.multiple and not isinstance(value, list)
        defaults[parameter.name] = [value] if many else value
    context.default_map = defaults


def _keys(context: typer.Context) -> dict[str, Any]:
    """Name of each option and argument, as in a file -> the parameter."""
    return {_key(one): one for one in context.command.params if one.name not in ("help", "config", "context")}


def _key(parameter: Any) -> str:
    longest = max(parameter.opts, key=len)
    return str(parameter.name if not longest.startswith("-") else longest.lstrip("-"))


def run_file(context: typer.Context) -> bytes:
    """The options that a run was given, by command line or file, as a file that repeats it.

    Names of files that are no Unicode have no place in TOML: such options are named in a comment.
    """
    lines = [_HEAD.format(context.info_name)]
    for key, parameter in _keys(context).items():
        source = context.get_parameter_source(parameter.name)
        if source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP"):
            line = f"{key} = {_toml(context.params[parameter.name])}\n"
            lines.append(
                line if _is_unicode(line) else f"# {key} is no Unicode; give it on the command line\n"
            )
    return "".join(lines).encode()


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
