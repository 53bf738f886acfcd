"""What a run would do, told before: nothing is written, and what is told happens; how much is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.small import write
from threadpoolctl import threadpool_info, threadpool_limits

import twofold
from twofold.calibration.memory import peak_memory
from twofold.cli import main
from twofold.decomposition import estimate
from twofold.decomposition.decompose import prepared
from twofold.decomposition.dry_run import dry_run
from twofold.decomposition.estimate import Estimate
from twofold.errors import PlanError
from twofold.planning import requests


@pytest.fixture
def files(tmp_path) -> list[str]:
    np.save(tmp_path / "x.npy", samples(10))
    return write(tmp_path)


def samples(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 16, 12, 12)).astype(np.float32)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_written_and_what_is_told_is_what_happens(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path / "cache"))
    command = ["decompose", *files, "-o", str(tmp_path / "out"), "--macs", "0.6", "--skip", "one"]
    command += ["--data", str(tmp_path / "x.npy")]
    before = tree(tmp_path)
    assert main([*command, "--dry-run", "--json"]) == 0
    assert tree(tmp_path) == before
    told = json.loads(capsys.readouterr().out)
    assert main([*command, "--json", "--no-report"]) == 0
    out = capsys.readouterr()
    plan = json.loads(out.out)["plan"]
    assert "note: this takes about " in out.err
    assert {one["layer"] for one in plan["choices"]} <= {one["name"] for one in told["layers"]}
    assert ["one", "skipped on request"] in told["left_alone"]
    stays = {one["layer"]: one["reason"] for one in plan["skipped"]}
    assert all(stays[name] == reason for name, reason in told["left_alone"])
    assert told["estimate"]["seconds"] > 0


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_the_lowest_reachable_ratio_is_where_decompose_begins_to_reject(files, metric):
    model = twofold.load(*files)
    least = dry_run(model, no_data=True, **{metric: 0.5}).least
    twofold.decompose(model, no_data=True, **{metric: least + 1e-6})
    with pytest.raises(PlanError, match="out of reach"):
        twofold.decompose(model, no_data=True, **{metric: least - 1e-6})


def test_a_budget_out_of_reach_is_told_with_what_would_do(files, tmp_path, capsys):
    command = ["decompose", *files, "-o", str(tmp_path / "out"), "--no-data", "--macs", "0.01", "--dry-run"]
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "0.0100 is out of reach: the lowest reachable ratio is" in out
    assert "nothing was written" in out
    assert not (tmp_path / "out").exists()


def test_the_estimate_counts_samples_and_operations(files, monkeypatch):
    """Times of one forward and of one operation are given; what is counted is checked by hand."""
    monkeypatch.setattr(estimate, "_forward", lambda calibration: 2.0)
    monkeypatch.setattr(estimate, "_rate", lambda: 1e300)
    monkeypatch.setattr(estimate, "peak_memory", lambda: 5 << 30)

    def estimated(count: int) -> tuple[Estimate, int, int]:
        given = prepared(
            twofold.load(*files), macs=0.5, data=samples(count), cache=False,
            calibration=twofold.CalibrationOptions(gradients=False),
        )  # fmt: skip
        layers = [one for one in given.model.convolutions() if one.name != "out"]
        wanted = {name: of for name, of in requests(layers, given.options).items()}
        used = given.calibration
        return Estimate.of(used, layers, wanted), used.inputs.count, used.holdout.count

    for count in (20, 40):
        found, fitted, held = estimated(count)
        assert fitted + held == count
        assert found.statistics == 2.0 * fitted
        assert found.fits == 2.0 * held
        assert found.effects == 4 * 2 * held * 2.0 / 2  # candidates, layers, samples, half of the network
        assert found.seconds == found.statistics + found.fits + found.effects + found.rest
        assert str(found).startswith("about ")
        assert 5 << 30 < found.memory < 6 << 30
        assert peak_memory() > 10_000_000  # what Python and NumPy take alone


@pytest.mark.parametrize(("fits", "hint"), [(500.0, "--scheme spatial --scheme channel"), (50.0, "")])
def test_a_long_run_says_what_is_quicker(files, tmp_path, capsys, monkeypatch, fits, hint):
    found = Estimate(1.0, fits, 1.0, 1.0, 1 << 20)
    monkeypatch.setattr(Estimate, "of", lambda *given: found)
    command = ["decompose", *files, "-o", str(tmp_path / "out"), "--macs", "0.6", "--data"]
    assert main([*command, str(tmp_path / "x.npy"), "--no-report"]) == 0
    assert (f"; for a quicker first look, {hint}" in capsys.readouterr().err) is bool(hint)


def test_the_rate_is_that_of_one_thread_where_many_wait_for_one_another(monkeypatch):
    def seconds(work):
        threads = min(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return 1.0 if threads == 1 else 20.0

    monkeypatch.setattr(estimate, "_seconds", seconds)
    with threadpool_limits(2, user_api="blas"):
        assert estimate._rate() == 2 * estimate._SIDE**3


def test_quiet_says_errors_and_the_result_alone_and_verbose_every_layer(files, tmp_path, capsys):
    command = ["decompose", *files, "-o", str(tmp_path / "out"), "--macs", "0.6", "--no-data", "--force"]
    assert main([*command, "--no-report", "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "all convolutions" in said.out
    assert main([*command, "--no-report", "--verbose"]) == 0
    said = capsys.readouterr().err
    assert "factoring layers: 1 of 2, two, 0 s" in said  # the largest first
    assert "factoring layers: 2 of 2, one, 0 s" in said
    assert main([*command, "--quiet", "--macs", "0.01"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main([*command, "--quiet", "--verbose"]) == 1
    assert "contradict" in capsys.readouterr().err
