"""Which module may import which: the tree is the data flow, and dependencies that are optional stay so."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "twofold"

#: From left to right data flows; a part may import those before it, and itself. Modules of one line of the
#: list may not import each other.
FLOW = (
    ("errors", "start", "lazy"),
    ("renamed", "views"),
    ("registry",),
    ("terminal", "system", "notebook"),
    ("progress", "codec"),
    ("fingerprint",),
    ("files",),
    ("distributed",),
    ("ranks",),
    ("layer_types", "device"),
    ("conv",),
    ("text",),
    ("formats",),
    ("backends",),
    ("caffe_torch", "onnx_torch", "lowrank"),
    ("caffe_onnx",),
    ("calibration", "planning"),
    ("export",),
    ("latency",),
    ("inspect", "compare", "doctor"),
    ("decomposition",),
    ("int8",),
    ("finetune",),
    ("recover",),
    ("report",),
    ("amct",),
    ("amct_torch",),
    ("cli",),
    ("__init__", "__main__"),
)
RANK = {part: rank for rank, parts in enumerate(FLOW) for part in parts}
#: The other way round, each with its reason.
ALLOWED: set[tuple[str, str]] = set()


#: Inside of a part, a value that reads, writes or shows itself, by what imports it.
TURNED = {
    ("planning.plan", "planning.check"),
    ("planning.plan", "planning.codec"),
    ("planning.plan", "planning.table"),
}


@cache
def modules() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


@cache
def known() -> set[str]:
    return {module_of(path) for path in modules()}


@cache
def imported(path: Path) -> set[str]:
    """The modules of twofold that a module imports, wherever in the module it does so."""
    package = ("twofold", *path.relative_to(SRC).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[tuple[str, str]] = []
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *([node.module] if node.module else [])))
            names = [(f"{stem}.{alias.name}", stem) for alias in node.names]
        for name, holder in names:
            inner = [one.removeprefix("twofold.") for one in (name, holder) if one.startswith("twofold.")]
            found |= {next((one for one in inner if one in known()), "")} - {""}
    return found


def imported_parts(path: Path) -> set[str]:
    """The parts of twofold that a module imports."""
    return {name.split(".")[0] for name in imported(path)}


def test_imports_go_one_way():
    against = []
    for path in modules():
        part = part_of(path)
        assert part in RANK, f"say in FLOW where {part} stands"
        against += [
            f"{path.relative_to(SRC)} imports {other}"
            for other in imported_parts(path) - {part}
            if RANK[other] >= RANK[part] and (part, other) not in ALLOWED
        ]
    assert against == []


def test_no_circles_inside_a_part():
    """Nor late ones, but for those of `TURNED`."""
    graph = {
        module_of(path): {
            one
            for one in imported(path) - {module_of(path)}
            if one.split(".")[0] == part_of(path) and (module_of(path), one) not in TURNED
        }
        for path in modules()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


def loaded_by(statement: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


THIRD_PARTY = {
    "numpy", "scipy", "google", "typer", "click", "rich", "threadpoolctl", "torch", "PIL", "h5py", "cv2",
    "onnx", "skimage", "joblib", "lmdb", "platformdirs", "onnxruntime", "jinja2", "markupsafe", "matplotlib",
    "torchao", "onnxscript",
}  # fmt: skip


@pytest.mark.parametrize("module", ["twofold.conv", "twofold.lowrank", "twofold.planning"])
def test_numerics_import_with_numpy_and_scipy_alone(module):
    assert loaded_by(f"import {module}") & THIRD_PARTY <= {"numpy", "scipy", "threadpoolctl"}


def test_the_core_installation_needs_no_extra():
    loaded = loaded_by("import twofold.cli, twofold.inspect") & THIRD_PARTY
    assert loaded <= {"numpy", "scipy", "threadpoolctl", "typer", "click", "rich", "platformdirs"}


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["nonsense"]])
def test_help_needs_nothing_heavy(argv):
    """numpy and scipy alone take half a second; what answers at once must not import them."""
    loaded = loaded_by(f"from twofold.cli import main; main({argv})") & THIRD_PARTY
    assert loaded <= {"typer", "click", "rich"}


def test_public_names_are_no_modules_whatever_was_imported_before():
    import types

    import twofold
    import twofold.compare
    import twofold.decomposition.decompose
    import twofold.recover

    assert not [name for name in twofold.__all__ if isinstance(getattr(twofold, name), types.ModuleType)]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        twofold.nothing  # noqa: B018 - asked for to fail


def test_the_core_works_where_extras_are_absent(tmp_path):
    """A whole run with torch, Pillow and h5py made unimportable."""
    from tests.small import write

    files = write(tmp_path)
    code = (
        "import sys\n"
        "for name in ('torch', 'PIL', 'h5py', 'lmdb', 'google.protobuf', 'cv2', 'onnx', 'onnxruntime'):\n"
        "    sys.modules[name] = None\n"
        "from twofold.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, "decompose", *files, "-o", str(tmp_path / "out"), "--macs", "0.5"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert (tmp_path / "out" / "plan.json").exists()


def test_public_names_are_few_and_there():
    import twofold

    assert len(twofold.__all__) <= 26
    assert all(hasattr(twofold, name) for name in twofold.__all__)
