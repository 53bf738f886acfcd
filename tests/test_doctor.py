"""What `twofold doctor` finds, and that its tables agree with what the package says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from twofold import doctor
from twofold.cli import main
from twofold.latency.runtimes import RUNTIMES


def test_extras_are_those_of_the_package():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    listed = dict(re.findall(r"^([\w-]+) = \[(.*?)\]", section, re.MULTILINE))
    assert set(listed) - {"all"} == set(doctor.EXTRAS)
    for name, packages in listed.items():
        for package in re.findall(r'"([a-zA-Z][\w-]*)[><=]', packages):
            assert package in doctor.EXTRAS[name][0].values()


def test_it_tells_versions_and_runtimes(capsys):
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert found["packages"]["numpy"] == np.__version__
    assert [one["name"] for one in found["runtimes"]] == list(RUNTIMES)
    for one in found["runtimes"]:
        assert bool(one["problem"]) == (one["version"] is None)
    assert found["memory_free"] > 0
    assert found["algebra"]["gflops"] > 0


def test_a_missing_extra_says_what_it_would_bring_and_how(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "twofold.latency.runtimes.onnxruntime", raising=False)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (hdf5,) = [line for line in lines if line.split()[:1] == ["hdf5"]]
    assert "h5py missing" in hdf5
    assert doctor.EXTRAS["hdf5"][1] in hdf5
    assert hdf5.endswith("pip install 'twofold[hdf5]'")
    (runtime,) = [line for line in lines if line.split()[:1] == ["onnxruntime"]]
    assert "pip install 'twofold[onnx]'" in runtime


def test_a_runtime_that_breaks_does_not_hide_the_rest(monkeypatch):
    def broken(name: str) -> None:
        raise OSError("libfoo.so: cannot open\n shared object file")

    monkeypatch.setattr(doctor, "runtime", broken)
    found = doctor.diagnose()
    assert {one.problem for one in found.runtimes} == {"broken: libfoo.so: cannot open shared object file"}
    assert "broken: libfoo.so" in str(found)


@pytest.mark.parametrize(("name", "slow"), [("openblas", False), ("mkl", False), ("netlib", True)])
def test_slow_linear_algebra_is_said(monkeypatch, name, slow):
    monkeypatch.setattr(doctor, "threadpool_info", lambda: [{"user_api": "blas", "internal_api": name}])
    found = doctor.diagnose()
    assert found.algebra.slow is slow
    assert ("; slow: install numpy" in str(found)) is slow
