"""Several processes under torchrun: the same training as one process with the whole batch."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from tests.finetune.tiny import BATCH_NORM, SOLVER, write_training
from tests.processes import ended, started, together, torchrun

from twofold.finetune import TrainOptions, read_state, train
from twofold.formats.caffe.caffemodel import read_weights

GLOBAL = BATCH_NORM.replace("GLOBAL", "batch_norm_param { use_global_stats: true }")
LOCAL = BATCH_NORM.replace("GLOBAL", "")


FINETUNE = ("finetune", "solver.prototxt", "--device", "cpu")


def blobs(path: Path) -> dict[str, list[np.ndarray]]:
    return {layer.name: [blob.array() for blob in layer.blobs] for layer in read_weights(path).layers}


def assert_same(one: Path, other: Path, *, but: tuple[str, ...] = ()) -> None:
    """Weights are equal up to float32 rounding, which 12 iterations of momentum enlarge a little."""
    ours, theirs = blobs(one), blobs(other)
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - set(but):
        for a, b in zip(ours[name], theirs[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * max(1, np.abs(b).max()))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


#: A layer with parameters that no loss reaches.
ASIDE = """layer { name: "aside" type: "InnerProduct" bottom: "conv" top: "aside"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }"""


@pytest.mark.parametrize(
    ("between", "launch"),
    [("", torchrun), (GLOBAL, together), (ASIDE, together)],
    ids=["plain", "global statistics", "without a loss"],
)
def test_two_processes_are_one_with_the_whole_batch(folder, between, launch):
    write_training(folder, solver=SOLVER + "iter_size: 2 clip_gradients: 0.5", between=between, drop=0.0)
    done = launch(folder, *FINETUNE, "--json")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)  # only the first process speaks
    (folder / "snap").rename(folder / "two")
    alone = train("solver.prototxt", report=lambda line: None)
    assert_same(folder / "two" / alone.files[0].name, alone.files[0])
    ours, theirs = (read_state(folder / at / alone.files[1].name) for at in ("two", "snap"))
    for a, b in zip(ours.history, theirs.history, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
    assert got["loss"] == pytest.approx(alone.loss, rel=1e-5)
    assert [test["iteration"] for test in got["tests"]] == [0, 4, 8, 12]
    for mine, its in zip(got["tests"], alone.tests, strict=True):
        assert mine["outputs"]["accuracy"] == list(its.outputs["accuracy"])
        assert mine["outputs"]["loss"] == pytest.approx(list(its.outputs["loss"]), rel=1e-4)
    assert done.stderr.count("Iteration 3: loss = ") == 1
    assert "[W" not in done.stderr, done.stderr  # what PyTorch itself warns of


def test_batch_norm_takes_the_statistics_of_each_part(folder):
    """After one iteration the stored ones are those of the first process's half of the batch."""
    write_training(folder, between=LOCAL, drop=0.0)
    done = together(folder, *FINETUNE, "--max-iter", "1")
    assert done.returncode == 0, done.stderr
    (folder / "snap").rename(folder / "two")
    text = (folder / "train_val.prototxt").read_text()
    (folder / "train_val.prototxt").write_text(text.replace("batch_size: 8", "batch_size: 4"))
    half = train("solver.prototxt", options=TrainOptions(max_iter=1), report=lambda line: None)
    ours, theirs = blobs(folder / "two" / half.files[0].name), blobs(half.files[0])
    for a, b in zip(ours["bn"], theirs["bn"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert not np.allclose(ours["conv"][0], theirs["conv"][0], rtol=0, atol=1e-5)  # from the other half, too


def test_resumed_processes_end_with_the_same_bits(folder):
    for name in ("straight", "resumed"):
        write_training(folder / name, between=LOCAL)
    assert together(folder / "straight", *FINETUNE).returncode == 0
    assert together(folder / "resumed", *FINETUNE, "--max-iter", "4").returncode == 0
    assert together(folder / "resumed", *FINETUNE, "--resume").returncode == 0
    for kind in ("caffemodel", "solverstate"):
        name = f"snap/tiny_iter_12.{kind}"
        assert (folder / "resumed" / name).read_bytes() == (folder / "straight" / name).read_bytes()


def test_a_batch_that_cannot_be_shared_is_one_line(folder):
    write_training(folder)
    done = together(folder, *FINETUNE, processes=3)
    assert done.returncode != 0
    assert "a batch of 8 cannot be shared evenly by 3 processes" in done.stderr
    assert not (folder / "snap").exists()


def test_interrupted_processes_stop_together_with_a_snapshot(folder):
    write_training(
        folder, solver=SOLVER.replace("max_iter: 12", "max_iter: 100000").replace("snapshot: 4", "")
    )
    members = started(folder, *FINETUNE)
    while "Iteration 9:" not in (said := Path("stderr.0").read_text() if Path("stderr.0").exists() else ""):
        assert all(one.is_alive() for one in members), said
        time.sleep(0.01)
    for one in members:  # as the keys of a terminal do, and `torchrun`
        assert one.pid is not None
        os.kill(one.pid, signal.SIGINT)
    assert "stopping behind this iteration" in ended(folder, members).stderr
    (state,) = Path("snap").glob("*.solverstate")
    more = read_state(state).iteration + 1
    assert train("solver.prototxt", options=TrainOptions(resume=True, max_iter=more)).iterations == more
