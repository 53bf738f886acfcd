"""What pyproject.toml claims of versions and extras, held: a few tests in environments of their own.

`nox` runs what the gate runs; the other sessions run before a release, and `oldest_torch` takes gigabytes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import nox

nox.options.sessions = ["no_extras", "oldest"]
nox.options.default_venv_backend = "venv"
os.environ.setdefault("PY_DISCOVERY_TIMEOUT", "240")  # a busy machine is slow

PROJECT = nox.project.load_toml("pyproject.toml")["project"]
#: What runs the tests, no oracle among it.
RUNNER = ("pytest", "hypothesis")
NUMERICS = (
    "tests/test_bare.py", "tests/test_imports.py", "tests/lowrank/test_spectra.py",
    "tests/planning/test_solve.py",
)  # fmt: skip
FILES = ("tests/formats/onnx/test_model.py", "tests/formats/caffe/test_hdf5.py")
TORCH = ("tests/formats/torch/test_model.py", "tests/recover/test_torch.py", "tests/finetune/test_solver.py")


def interpreter(version: str) -> str:
    """A Python of this version: on the path, or one of pyenv's; its number where there is none."""
    found = shutil.which(f"python{version}")
    if found and not subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
        return found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    ours = sorted(root.glob(f"versions/{version}.*/bin/python"))
    return str(ours[-1]) if ours else version


def lowest(*extras: str) -> list[str]:
    """The requirements of the project and of extras, each at the lowest version that it allows."""
    wanted = [*PROJECT["dependencies"]]
    for extra in extras:
        wanted += PROJECT["optional-dependencies"][extra]
    return [re.sub(r">=([\w.]+).*", r"==\1", one) for one in wanted]


def check(session: nox.Session, requirements: Sequence[str], tests: Sequence[str]) -> None:
    """Install requirements and the project from its sdist; run tests that must find all that they import."""
    session.install(*requirements, *RUNNER, "build")
    session.run("python", "-m", "build", "--sdist", "--outdir", session.create_tmp(), ".", silent=True)
    (archive,) = Path(session.create_tmp()).glob("twofold-*.tar.gz")
    session.install("--no-deps", str(archive))
    session.run("python", "-m", "pip", "check")
    # Old versions warn of each other, which says nothing of the project.
    session.run(
        "python", "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning", *tests
    )


@nox.session
def no_extras(session: nox.Session) -> None:
    """The dependencies alone, at their newest."""
    check(session, PROJECT["dependencies"], NUMERICS)


@nox.session(python=interpreter("3.10"))
def oldest(session: nox.Session) -> None:
    """The oldest Python, and the dependencies alone at their lowest versions."""
    check(session, lowest(), NUMERICS)


@nox.session(python=interpreter("3.13"))
def newest(session: nox.Session) -> None:
    """A new Python, and the dependencies alone at their newest."""
    check(session, PROJECT["dependencies"], NUMERICS)


@nox.session(python=interpreter("3.10"))
def oldest_files(session: nox.Session) -> None:
    """The oldest readers and writers of ONNX models and HDF5 files."""
    check(session, lowest("onnx", "hdf5"), FILES)


@nox.session(python=interpreter("3.10"))
def oldest_torch(session: nox.Session) -> None:
    """The oldest PyTorch."""
    check(session, lowest("torch", "hdf5"), TORCH)
