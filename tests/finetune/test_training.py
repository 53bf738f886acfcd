"""Training against numbers that the real Caffe gave (tests/data/caffe/training)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from twofold.caffe_torch import CaffeNet, to_torch
from twofold.finetune import Solver, SolverDefinition, read_solver, read_state
from twofold.formats.caffe.caffemodel import read_weights
from twofold.formats.caffe.model import CaffeModel

CASES = sorted((Path(__file__).parents[1] / "data/caffe/training").iterdir())
#: Of the largest value of a blob: float32 sums in another order, over up to 20 passes.
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class Training:
    """A recorded training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = json.loads((folder / "case.json").read_text())
        self.losses = json.loads((folder / "losses.json").read_text())
        self.batches = dict(np.load(folder / "batches.npz"))

    def solver(self, **changes) -> Solver:
        definition = read_solver(self.folder / "solver.prototxt")
        definition = SolverDefinition(**{**vars(definition), **changes})
        model = CaffeModel.load(self.folder / "train.prototxt", self.folder / "initial.caffemodel")
        return Solver(to_torch(model, "TRAIN"), definition)

    def batch(self, iteration: int) -> list[dict[str, torch.Tensor]]:
        size = self.about["iter_size"]
        return [
            {name: torch.from_numpy(values[iteration * size + i]) for name, values in self.batches.items()}
            for i in range(size)
        ]

    def check(self, net: CaffeNet, history: Sequence[np.ndarray]) -> None:
        """The net and the history are those at the end of the training."""
        arrays = net.arrays()
        with np.load(self.folder / "trained.npz") as want:
            assert set(want.files) == {
                f"{name}/{i}" for name, all_ in arrays.items() for i in range(len(all_))
            }
            for key in want.files:
                layer, index = key.rsplit("/", 1)
                close(arrays[layer][int(index)], want[key], key)
        with np.load(self.folder / "history.npz") as want:
            assert len(history) == len(want.files)
            for index, array in enumerate(history):
                close(array, want[str(index)], f"history {index}")


def close(got, want, what: str) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(
        got, want, rtol=0, atol=TOLERANCE * np.abs(want).max(initial=1e-12), err_msg=what
    )


def ordered(solver: Solver) -> list[np.ndarray]:
    return [slot.numpy() for slots in zip(*solver.history, strict=True) for slot in slots]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def training(request) -> Training:
    return Training(request.param)


def test_same_training_as_caffe(training):
    solver = training.solver()
    found = [f"{one.layer}/{one.index}" for one in solver.net.learnables()]
    assert found == training.about["learnable"]
    results = [solver.step(training.batch(i)) for i in range(training.about["iterations"])]
    assert [result.index for result in results] == list(range(training.about["iterations"]))
    close([result.loss for result in results], training.losses["loss"], "losses")
    assert [result.rate for result in results] == pytest.approx(training.losses["lr"], rel=1e-6)
    passes = [outputs for result in results for outputs in result.outputs]
    for name, values in training.losses["tops"].items():
        close([outputs[name].numpy() for outputs in passes], values, name)
    training.check(solver.net, ordered(solver))


def test_same_gradients_as_caffe(training):
    solver = training.solver(iter_size=1)
    solver.accumulate(training.batch(0)[:1])
    with np.load(training.folder / "gradients0.npz") as want:
        for one in solver.net.learnables():
            gradient = torch.zeros_like(one.tensor) if one.tensor.grad is None else one.tensor.grad
            close(gradient.detach().numpy(), want[f"{one.layer}/{one.index}"], f"{one.layer}/{one.index}")


def test_snapshots_of_caffe_are_read(training):
    state = training.folder / f"{training.about['snapshot']}.solverstate"
    solver = training.solver()
    solver.restore(state)
    assert solver.iteration == training.about["iterations"]
    training.check(solver.net, ordered(solver))


def test_states_are_written_as_caffe_writes_them(training):
    state = training.folder / f"{training.about['snapshot']}.solverstate"
    assert read_state(state).encode() == state.read_bytes()


def test_snapshots_hold_what_those_of_caffe_hold(training, tmp_path):
    solver = training.solver()
    for i in range(training.about["iterations"]):
        solver.step(training.batch(i))
    weights, state = solver.snapshot(tmp_path / "made" / "snap")
    assert weights.stem == state.stem == training.about["snapshot"]
    mine, its = read_state(state), read_state(training.folder / state.name)
    assert (mine.iteration, mine.current_step) == (its.iteration, its.current_step)
    own, caffes = read_weights(weights), read_weights(training.folder / weights.name)
    assert own.layers[0].type == "Input"
    wanted = [layer for layer in caffes.layers if layer.blobs]
    assert [layer.name for layer in own.layers if layer.blobs] == [layer.name for layer in wanted]
    for layer in wanted:
        entry = own.layer(layer.name)
        assert entry is not None
        assert (entry.type, entry.tops) == (layer.type, layer.tops)
        for got, want in zip(entry.blobs, layer.blobs, strict=True):
            close(got.array(), want.array(), layer.name)


def test_going_on_from_a_snapshot_changes_nothing(training, tmp_path):
    straight, half = training.solver(), training.about["iterations"] // 2
    for i in range(half):
        straight.step(training.batch(i))
    _, state = straight.snapshot(tmp_path / "snap")
    resumed = training.solver()
    resumed.restore(state)
    for i in range(half, training.about["iterations"]):
        one, other = straight.step(training.batch(i)), resumed.step(training.batch(i))
        assert (one.loss, one.rate, one.index) == (other.loss, other.rate, other.index)
    assert all(np.array_equal(a, b) for a, b in zip(ordered(straight), ordered(resumed), strict=True))
    training.check(resumed.net, ordered(resumed))


@pytest.mark.parametrize(
    "case", [case for case in CASES if "resume_from" in (case / "case.json").read_text()]
)
def test_going_on_from_a_snapshot_of_caffe(case):
    training = Training(case)
    solver = training.solver()
    solver.restore(case / f"{training.about['resume_from']}.solverstate")
    begin = int(training.about["resume_from"].rsplit("_", 1)[1])
    losses = [solver.step(training.batch(i)).loss for i in range(begin, training.about["iterations"])]
    close(losses, training.losses["loss"][begin:], "losses")
    training.check(solver.net, ordered(solver))
