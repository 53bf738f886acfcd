"""`twofold finetune`: what it prints where, its exit codes, and one line for what it rejects."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tests.finetune.tiny import write_training

from twofold.cli import main


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    """The folder of a training, which is the working directory."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    write_training(Path())


def test_results_go_to_stdout_and_the_log_to_stderr(capsys):
    assert main(["finetune", "solver.prototxt", "-o", "out", "--max-iter", "4"]) == 0
    out, err = capsys.readouterr()
    first, *rest = out.splitlines()
    assert first.startswith("4 iterations, loss 0.")
    assert rest[0].startswith("Test net #0: accuracy = ")
    assert rest[1] == "written: out/tiny_iter_4.caffemodel, out/tiny_iter_4.solverstate"
    assert "Iteration 0: loss = " in err
    assert "Iteration 4: Test net #0: accuracy = " in err


def test_the_report_shows_the_course_that_the_log_told(capsys):
    assert main(["finetune", "solver.prototxt", "-o", "shown", "--max-iter", "8"]) == 0
    log = capsys.readouterr().err
    losses = re.findall(r"Iteration (\d+): loss = ([\d.e+-]+)", log)
    found = json.loads(Path("shown/report.json").read_text())["training"]
    assert [(str(at), f"{value:.6g}") for at, value in found["losses"]] == losses
    assert len(losses) > 1
    scores = re.findall(r"Iteration (\d+): Test net #0: accuracy = ([\d.e+-]+)", log)
    assert [(str(at), f"{value:.6g}") for at, value in found["tests"]["test net #0: accuracy"]] == scores
    page = Path("shown/report.html").read_text()
    rates = re.findall(r"Iteration (\d+): loss = .*, lr = ([\d.e+-]+)", log)
    assert [(str(at), f"{value:.6g}") for at, value in found["rates"]] == rates
    assert page.count('<svg class="chart"') == 2 * (
        2 + len(found["tests"])
    )  # for wide screens and narrow ones
    assert main(["report", "shown"]) == 0
    assert Path("shown/report.html").read_text() == page


def test_the_report_of_a_resumed_training_goes_on(capsys):
    assert main(["finetune", "solver.prototxt", "-o", "whole"]) == 0
    assert main(["finetune", "solver.prototxt", "-o", "parts", "--max-iter", "8"]) == 0
    for _ in range(2):  # the second time nothing is left to do
        assert main(["finetune", "solver.prototxt", "-o", "parts", "--resume"]) == 0
        whole, parts = (json.loads(Path(name, "report.json").read_text()) for name in ("whole", "parts"))
        assert parts["training"] == whole["training"]
    capsys.readouterr()


def test_a_training_that_displays_nothing_has_a_course(capsys):
    solver = Path("solver.prototxt")
    solver.write_text(solver.read_text().replace("display: 3", "display: 0"))
    assert main(["finetune", "solver.prototxt", "-o", "out"]) == 0
    assert "loss = " not in re.sub("Test net.*", "", capsys.readouterr().err)
    found = json.loads(Path("out/report.json").read_text())["training"]
    assert [at for at, _ in found["losses"]] == list(range(12))


def test_reports_that_are_there_are_refused_before_the_training(capsys):
    Path("out").mkdir()
    mine = Path("out/report.json")
    mine.write_text("{}")
    for more, says in ([], "exists already.*--force"), (["--resume"], "no report of a training by solver"):
        assert main(["finetune", "solver.prototxt", "-o", "out", *more]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(says, line)
    assert main(["finetune", "solver.prototxt", "-o", "out", "--no-report"]) == 0
    assert mine.read_text() == "{}"
    assert main(["finetune", "solver.prototxt", "-o", "out", "--force"]) == 0
    assert json.loads(mine.read_text())["title"] == "solver.prototxt"
    capsys.readouterr()
    assert main(["finetune", "solver.prototxt", "-o", "out"]) == 1
    assert "--resume goes on with it" in capsys.readouterr().err


def test_a_terminal_shows_a_bar_with_the_loss_and_the_time_left():
    master, slave = pty.openpty()
    shown = b""
    command = [sys.executable, "-m", "twofold", "finetune", "solver.prototxt"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave) as process:
        os.close(slave)
        with suppress(OSError):  # Linux ends the reading so, when nobody writes any more
            while part := os.read(master, 4096):
                shown += part
    os.close(master)
    assert process.returncode == 0
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert re.search(r"training, loss \d\S* .* 12/12 \d:\d\d:\d\d 0:00:00", text)
    assert "Iteration 9: loss = " in text


def test_json_is_all_that_is_printed(capsys):
    assert main(["finetune", "solver.prototxt", "--max-iter", "4", "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["iterations"] == 4
    assert got["files"] == ["snap/tiny_iter_4.caffemodel", "snap/tiny_iter_4.solverstate"]
    assert [test["iteration"] for test in got["tests"]] == [0, 4]
    assert got["tests"][1]["outputs"].keys() == {"accuracy", "loss"}


def test_a_decomposed_net_is_trained_with_its_train_val(capsys):
    """decompose, apply to the train_val, finetune: the way of the reference."""
    text = Path("train_val.prototxt").read_text().replace("num_output: 4", "num_output: 32")
    second = """layer { name: "second" type: "Convolution" bottom: "conv" top: "second"
      convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
      layer { name: "score" """
    text = text.replace('layer { name: "score" ', second).replace(
        'bottom: "conv" top: "score"', 'bottom: "second" top: "score"'
    )
    Path("train_val.prototxt").write_text(text)
    assert main(["finetune", "solver.prototxt", "--max-iter", "8"]) == 0
    files = ["train_val.prototxt", "snap/tiny_iter_8.caffemodel"]
    shape = ["--input", "data=1x1x8x8"]
    assert main(["decompose", *files, "-o", "small", "--rank", "second=16", "--only", "second", *shape]) == 0
    solver = Path("solver.prototxt").read_text().replace('"train_val', '"small/train_val')
    Path("small.prototxt").write_text(solver)
    capsys.readouterr()
    weights = ["--weights", "small/tiny_iter_8.caffemodel"]
    assert main(["finetune", "small.prototxt", *weights, "-o", "tuned", "--lr-scale", "0.1", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "fillers" not in err  # every layer got its weights
    assert json.loads(out)["tests"][-1]["outputs"]["loss"] < [0.05]
    assert "second_0" in Path("small/train_val.prototxt").read_text()


def test_without_torch_one_line_says_what_to_install(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("twofold.finetune")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["finetune", "solver.prototxt"]) == 1
    assert capsys.readouterr().err == (
        "twofold: training needs PyTorch, which is not installed: pip install 'twofold[caffe-train]'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.prototxt"], "none.prototxt: cannot read the solver: No such file or directory"),
        (["train_val.prototxt"], "train_val.prototxt:"),
        (["solver.prototxt", "--weights", "none.caffemodel"], "none.caffemodel: "),
        (["solver.prototxt", "--weights", "solver.prototxt"], "solver.prototxt: "),
        (["solver.prototxt", "--lr-scale", "-1"], "lr_scale must be a positive number"),
        (["solver.prototxt", "--resume", "--force"], "choose one"),
    ],
)
def test_a_refusal_is_one_line(arguments, says, capsys):
    assert main(["finetune", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("twofold: ")
    assert says in line
    assert not Path("snap").exists()
