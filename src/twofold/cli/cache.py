"""The cache of results: the option of `decompose`, and the commands of `twofold cache`."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer

from ..decomposition.cache import SIZE_VARIABLE, standard_cache
from ..files.cache import FOLDER_VARIABLE, Cache
from ..terminal import echo, visible
from ..text import aligned
from .common import AsJson

NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Neither use nor keep results of earlier runs (twofold cache show)."),
]

app = typer.Typer(
    name="cache",
    no_args_is_help=True,
    help="What `decompose` has measured and fitted, kept for later runs on the same model and inputs.",
)


@app.command()
def show(as_json: AsJson = False) -> None:
    """List what is kept: its folder, how many results of which kind, their size.

    Example: twofold cache show
    """
    cache = standard_cache()
    if cache is None:
        echo(json.dumps(None) if as_json else f"switched off: ${FOLDER_VARIABLE} is empty")
        return
    stored = list(cache.entries())
    counts, sizes = Counter(one.piece for one in stored), Counter[str]()
    for one in stored:
        sizes[one.piece] += one.size
    if as_json:
        results = {piece: {"count": counts[piece], "bytes": sizes[piece]} for piece in sorted(counts)}
        document = {
            "folder": str(cache.folder), "bytes": sizes.total(), "limit": cache.limit, "results": results,
        }  # fmt: skip
        echo(json.dumps(document, indent=2))
        return
    rows = [(piece, str(counts[piece]), _megabytes(sizes[piece])) for piece in sorted(counts)]
    place = f"{visible(str(cache.folder))} (${FOLDER_VARIABLE} moves it)"
    total = f"{_megabytes(sizes.total())} of {_megabytes(cache.limit)} (${SIZE_VARIABLE} sets the limit)"
    echo("\n".join([place, total, *(aligned(rows, {1, 2}) if rows else ["nothing is kept yet"])]))


@app.command()
def clear(as_json: AsJson = False) -> None:
    """Remove what is kept; runs at work go on, and whatever they lack is computed again.

    Example: twofold cache clear
    """
    cache = standard_cache()
    removed, size = _cleared(cache)
    if as_json:
        echo(json.dumps({"removed": removed, "bytes": size}))
    else:
        echo(f"removed: {removed} result(s), {_megabytes(size)}" if removed else "nothing was kept")


def _cleared(cache: Cache | None) -> tuple[int, int]:
    if cache is None:
        return 0, 0
    size = sum(one.size for one in cache.entries())
    return len(cache.clear()), size


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
