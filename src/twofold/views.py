"""How values show themselves in a notebook: the package says what makes HTML, and values ask here."""

from __future__ import annotations

from html import escape

from .lazy import resolve

#: Class -> what makes HTML of a value of it, both as "package.module:name".
_makers: dict[str, str] = {}


def register(kind: str, maker: str) -> None:
    """Say what shows values of a class; see `lazy`."""
    _makers[kind] = maker


def html(value: object) -> str | None:
    """A value as HTML; None where nothing shows it."""
    names = (f"{kind.__module__}:{kind.__qualname__}" for kind in type(value).__mro__)
    maker = next((_makers[name] for name in names if name in _makers), None)
    shown: str | None = None if maker is None else resolve(maker)(value)
    return shown


class Tabular:
    """Prints as a table, which a notebook shows as it stands; one line where it is part of something else."""

    @property
    def title(self) -> str:
        """The value in a few words."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.title}>"

    def _repr_html_(self) -> str:
        return f'<pre style="overflow-x: auto">{escape(str(self))}</pre>'
