"""Opening model files: which format a file has, and the command line on those that are no Caffe model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.formats.onnx import small
from tests.small import write as write_caffe

import twofold
from twofold.backends import Backend, backends, register
from twofold.cli import main
from twofold.decomposition.warnings import UNMEASURED
from twofold.errors import FormatError, OptionError
from twofold.formats.caffe.model import CaffeModel
from twofold.planning import Plan


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A small ONNX model in the working folder."""
    monkeypatch.chdir(tmp_path)
    small.write(tmp_path / "net.onnx", small.two())
    return "net.onnx"


def rejected(capsys, argv: list[str], pattern: str) -> None:
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(pattern, err), err


def test_the_suffix_tells_the_format(net, tmp_path):
    assert type(twofold.load(net)).__name__ == "OnnxModel"
    Path("NET.ONNX").write_bytes(Path(net).read_bytes())
    assert type(twofold.load("NET.ONNX")).__name__ == "OnnxModel"
    assert isinstance(twofold.load(*write_caffe(tmp_path)), CaffeModel)


def test_a_folder_is_its_one_model(net, tmp_path, capsys):
    Path("folder").mkdir()
    with pytest.raises(OptionError, match="folder: holds no single model"):
        twofold.load("folder")
    prototxt, _ = write_caffe(Path("folder"))
    assert len(twofold.load("folder").convolutions()) == 3
    assert main(["decompose", "folder/", "-o", "out", "--no-data", "--macs", "0.5"]) == 0
    assert "out/net.caffemodel" in capsys.readouterr().out
    assert main(["inspect", "out"]) == 0
    assert "two_0" in capsys.readouterr().out
    Path("folder/net.onnx").write_bytes(Path(net).read_bytes())
    rejected(capsys, ["inspect", "folder"], r"folder: holds no single model.*net\.onnx, net\.prototxt")
    Path(prototxt).unlink()
    Path("folder/net.caffemodel").unlink()
    assert type(twofold.load("folder")).__name__ == "OnnxModel"


@pytest.mark.parametrize("name", ["net.caffemodel.h5", "net.h5"])
def test_a_folder_may_hold_hdf5_weights(tmp_path, name):
    h5py = pytest.importorskip("h5py")
    write_caffe(tmp_path)
    (tmp_path / "net.caffemodel").unlink()
    with h5py.File(tmp_path / name, "w") as file:
        file["data/one/0"] = np.ones((64, 16, 3, 3), np.float32)
        file["data/one/1"] = np.ones(64, np.float32)
    assert twofold.load(tmp_path).weights.version == "HDF5"


@pytest.mark.parametrize("suffix", ["pt", "pth", "py"])
def test_what_python_makes_is_sent_to_python(net, capsys, suffix):
    name = f"tiny.{suffix}"
    Path(name).write_bytes(b"PK")
    for argv in (["inspect", name], ["decompose", name, "-o", "out"], ["compare", net, name]):
        rejected(capsys, argv, rf"{name}: a module of PyTorch .*twofold\.decompose\(module, \.\.\.\)")


def test_no_two_formats_share_a_suffix():
    for clash in (Backend("onnx", (".other",), twofold.load), Backend("other", (".onnx",), twofold.load)):
        with pytest.raises(OptionError, match="clashes with 'onnx'"):
            register(clash)
    assert [one.name for one in backends()] == ["caffe", "onnx", "torch"]


def test_files_that_are_mixed_up(net, tmp_path, capsys):
    prototxt, caffemodel = write_caffe(tmp_path)
    with pytest.raises(OptionError, match="give it alone"):
        twofold.load(net, caffemodel)
    Path("as.prototxt").write_bytes(Path(net).read_bytes())
    with pytest.raises(FormatError, match=r"as\.prototxt: not a prototxt but a binary file"):
        twofold.load("as.prototxt")
    with pytest.raises(FormatError, match="it looks like an ONNX model"):
        twofold.load(prototxt, net)
    rejected(capsys, ["decompose", prototxt, "-o", "out"], "give its weights after it")
    rejected(capsys, ["decompose", net, caffemodel, "-o", "out"], "give it alone")


def test_the_commands_on_a_model_of_one_file(net, capsys):
    assert main(["inspect", net]) == 0
    assert re.search(r"one +16->64 3x3 +1.33M", capsys.readouterr().out)
    assert main(["decompose", net, "-o", "out/", "--macs", "0.4", "--no-data"]) == 0
    out, err = capsys.readouterr()
    (warning,) = err.splitlines()
    assert warning.startswith(f"warning: {UNMEASURED.partition(';')[0]}; ")
    assert "out/net.onnx, out/plan.json" in out
    plan = Plan.load("out/plan.json")
    assert plan.totals.macs_ratio <= 0.4
    assert set(plan.sources) == {"net.onnx"}
    assert main(["apply", "out/plan.json", net, "-o", "again", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["again/net.onnx", "again/plan.json"]
    assert Path("again/net.onnx").read_bytes() == Path("out/net.onnx").read_bytes()
    rejected(
        capsys,
        ["decompose", net, "-o", "out", "--macs", "0.5"],
        "out/net.onnx, out/plan.json, out/run.toml, out/report.json, out/report.html: exists already",
    )


def test_input_sizes_on_the_command_line(net, capsys):
    made = small.two()
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.shape.dim[2].dim_param = "h"
    small.write(Path(net), made)
    assert main(["inspect", net]) == 0
    assert "note: net.onnx: the input size of 2 convolutions is not known" in capsys.readouterr().err
    assert main(["inspect", net, "--input", "x=1x16x12x12"]) == 0
    out, err = capsys.readouterr()
    assert "1.33M" in out
    assert err == ""
    rejected(capsys, ["inspect", net, "--input", "data=1x16x12x12"], "no input 'data'; it has x")


def test_without_the_extra_one_line_says_what_to_install(net):
    code = (
        "import sys\n"
        "sys.modules['onnx'] = None\n"
        "from twofold.cli import main\n"
        "sys.exit(main(['inspect', 'net.onnx']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == (
        "twofold: reading ONNX models needs onnx, which is not installed: pip install 'twofold[onnx]'\n"
    )
