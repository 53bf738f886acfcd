"""Devices that are not here: models to time, and the table that comes back."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import ncnn
import onnx
import pytest
from tests.small import NET, write

import twofold
from twofold.cli import main
from twofold.errors import FormatError, OptionError
from twofold.latency.offline import TABLE, read_table
from twofold.planning import Plan


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(line for line in path.read_text().splitlines() if not line.startswith("#")))


def fill(path: Path, network: str = "1.0") -> None:
    """Pretend that everything takes the sum of its channel products."""
    lines = path.read_text().splitlines()
    about = [line for line in lines if line.startswith("#")]
    filled = [rows(path)[0]]
    for name, what, _ in rows(path)[1:]:
        if what == "network":
            filled.append([name, what, network])
            continue
        total = 0
        for shape in what.partition(": ")[2].split(" | "):
            channels, kernel = shape.split(",")[0].split(" ")
            a, b = map(int, channels.split("->"))
            height, width = map(int, kernel.split("x"))
            total += a * b * height * width
        filled.append([name, what, f"{total / 1e5}"])
    with path.open("w", newline="") as stream:
        stream.write("\n".join(about) + "\n")
        csv.writer(stream).writerows(filled)


@pytest.fixture
def folder(tmp_path) -> Path:
    assert main(["latency", "export", *write(tmp_path), "-o", str(tmp_path / "timing"), "--block", "8"]) == 0
    return tmp_path / "timing"


def test_every_row_has_its_model_and_every_model_its_row(folder):
    table = rows(folder / TABLE)
    assert table[0] == ["model", "what", "milliseconds"]
    assert table[1][:2] == ["network.onnx", "network"]
    assert {row[0] for row in table[1:]} == {path.name for path in folder.glob("*.onnx")}
    for row in table[1:]:
        onnx.checker.check_model(onnx.load(folder / row[0]), full_check=True)
    assert "# block: 8" in (folder / TABLE).read_text()


def test_a_filled_table_makes_a_plan(folder, tmp_path, capsys):
    fill(folder / TABLE)
    argv = ["decompose", *write(tmp_path), "-o", str(tmp_path / "out"), "--no-data", "--multiple", "4"]
    assert main([*argv, "--latency", "0.6", "--latency-table", str(folder / TABLE)]) == 0
    plan = Plan.load(tmp_path / "out/plan.json")
    predicted = plan.timing.network.predicted
    assert predicted[1] / predicted[0] <= 0.6
    assert plan.timing.network.measured is None
    assert "predicted" in capsys.readouterr().out
    assert plan.choices


def test_without_the_networks_own_time_the_layers_stand_for_it(folder, tmp_path):
    fill(folder / TABLE, network="")
    found = read_table(folder / TABLE)
    assert found.seconds_of_network is None
    result = twofold.decompose(
        twofold.load(*write(tmp_path)), latency=0.6, latency_table=folder / TABLE, no_data=True, multiple=4
    )
    before, after = result.plan.timing.network.predicted
    assert after / before <= 0.6


def test_a_table_that_is_not_filled_is_refused(folder):
    with pytest.raises(FormatError, match=r"times.csv: the row .* has no time"):
        read_table(folder / TABLE)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("", "is no table of times"),
        ("a,b\n1,2\n", "its columns are model,what,milliseconds"),
        ("model,what,milliseconds\nx,y\n", "has no time"),
        ("model,what,milliseconds\nx,y,-1\n", "has no time"),
        ("model,what,milliseconds\nx,y,nan\n", "has no time"),
        *(
            (f"# block: {block}\nmodel,what,milliseconds\nx,y,1\n", "not a number of channels")
            for block in ("zero", "0", "²", "9" * 5000)
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_said(text, pattern, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(FormatError, match=pattern):
        read_table(tmp_path / "t.csv")


def test_a_table_of_another_network_is_refused(folder, tmp_path, capsys):
    fill(folder / TABLE)
    other = NET.replace("dim: 12 dim: 12", "dim: 13 dim: 12")
    argv = ["decompose", *write(tmp_path, other), "-o", str(tmp_path / "out"), "--no-data"]
    assert main([*argv, "--latency", "0.6", "--latency-table", str(folder / TABLE)]) == 1
    assert "has no time of 1 x 13x12: 16->64 3x3" in capsys.readouterr().err


def test_caffe_models_to_time(tmp_path):
    argv = ["latency", "export", *write(tmp_path), "-o", str(tmp_path / "timing"), "--format", "caffe"]
    assert main(argv) == 0
    table = rows(tmp_path / "timing" / TABLE)
    assert table[1][:2] == ["network.prototxt", "network"]
    for name, *_ in table[1:]:
        path = tmp_path / "timing" / name
        cv2.dnn.readNetFromCaffe(str(path), str(path.with_suffix(".caffemodel")))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "suffixes"), [("ncnn", {".param", ".bin"}), ("mnn", {".mnn"})])
def test_models_for_the_runtimes_of_phones(kind, suffixes, tmp_path, capfd):
    """That they compute what they should was checked as they were written; here, that they can be read."""
    argv = ["latency", "export", *write(tmp_path), "-o", str(tmp_path / "timing"), "--format", kind]
    assert main([*argv, "--scheme", "channel"]) == 0
    assert "small models and the whole network" in capfd.readouterr().out
    table = rows(tmp_path / "timing" / TABLE)
    assert table[1][1] == "network"
    assert {path.suffix for path in (tmp_path / "timing").iterdir()} == {*suffixes, ".csv"}
    assert len(list((tmp_path / "timing").iterdir())) == len(suffixes) * (len(table) - 1) + 1
    for name, *_ in table[1:]:
        if kind == "ncnn":
            net = ncnn.Net()
            assert net.load_param(str(tmp_path / "timing" / name)) == 0
            assert net.load_model(str((tmp_path / "timing" / name).with_suffix(".bin"))) == 0
            assert list(net.output_names()) == ["out0"]


def test_rejections(tmp_path, capsys):
    files = write(tmp_path)
    for argv, code, pattern in (
        ([*files, "--format", "tflite"], 1, "none of onnx, caffe, ncnn, mnn"),
        ([*files, "--block", "tpu"], 2, "one of none, tensor-cores, ascend-fp16, ascend-int8"),
        ([*files, "--skip", "*"], 1, "nothing to time"),
        (files[:1], 1, "nothing to time"),
    ):
        assert main(["latency", "export", *argv, "-o", str(tmp_path / "timing")]) == code
        assert pattern in capsys.readouterr().err
    assert not (tmp_path / "timing").exists()


def test_runtime_and_table_exclude_each_other(folder, tmp_path):
    with pytest.raises(OptionError, match="give no runtime"):
        twofold.decompose(
            twofold.load(*write(tmp_path)), speedup=2, runtime="torch", latency_table=folder / TABLE
        )
