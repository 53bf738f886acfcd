"""Options that belong together, as one parameter of a command: a dataclass whose fields are the options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

from typer.core import TyperCommand


class Command(TyperCommand):
    """A command whose help names what an option is given, and nothing for one that is given nothing."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its arguments and options."""
        params = super().get_params(ctx)
        for param in params:
            if param.metavar is None and param.param_type_name == "option":
                param.metavar = "" if getattr(param, "is_flag", False) else "VALUE"
        return params


def spread(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command as typer reads it: each field of a parameter's dataclass is an option of its own."""
    # Not `get_type_hints`: before Python 3.11 it makes Optional of what has None as default.
    given = inspect.signature(command, eval_str=True).parameters
    groups: dict[str, Any] = {
        name: one.annotation for name, one in given.items() if is_dataclass(one.annotation)
    }
    if not groups:
        return command
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in given.items():
        if name in groups:
            parameters |= _options(groups[name])
        else:
            parameters[name] = parameter.replace(kind=parameter.KEYWORD_ONLY)

    @wraps(command)
    def flat(**given: Any) -> Any:
        values = {
            name: kind(**{field.name: given.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        return command(**given, **values)

    setattr(flat, "__signature__", inspect.Signature(list(parameters.values())))  # noqa: B010 - mypy forbids the plain form
    flat.__annotations__ = {name: one.annotation for name, one in parameters.items()}
    return flat


def _options(group: Any) -> Mapping[str, inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return {
        field.name: inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=hints[field.name]
        )
        for field in fields(group)
    }


def _default(field: Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default
