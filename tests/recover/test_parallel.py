"""Several processes: the same recovery as one process with the whole batch.

`tests/finetune/test_parallel.py` starts them with torchrun itself.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.processes import together
from tests.small import write
from tests.test_calibrated import samples

import twofold
from twofold.calibration.inputs import from_arrays
from twofold.calibration.source import CalibrationSource
from twofold.errors import OptionError
from twofold.recover import RecoverOptions, recover

pytest.importorskip("torch")


@pytest.mark.parametrize("rate", [3e-3, None])
def test_two_processes_are_one_with_the_whole_batch(tmp_path, rate):
    original = twofold.load(*write(tmp_path))
    twofold.decompose(original, macs=0.3, multiple=4, no_data=True).save(tmp_path / "out")
    np.save(tmp_path / "x.npy", samples(21, seed=3))
    argv = (
        "recover", "net.prototxt", "net.caffemodel", "out", "-o", "two", "--data", "x.npy", "--device", "cpu",
        "--steps", "9", *(["--rate", str(rate)] if rate else []), "--batch", "4", "--seed", "5", "--json",
    )  # fmt: skip
    done = together(tmp_path, *argv)
    assert done.returncode == 0, done.stderr
    assert "[W" not in done.stderr, done.stderr  # what PyTorch itself warns of
    got = json.loads(done.stdout)  # only the first process speaks
    smaller = twofold.load(tmp_path / "out" / "net.prototxt", tmp_path / "out" / "net.caffemodel")
    options = RecoverOptions(steps=9, rate=rate, batch=4, seed=5, device="cpu")
    alone = recover(original, smaller, CalibrationSource(data=tmp_path / "x.npy"), options)
    assert got["samples"] == alone.samples
    assert got["before"] == pytest.approx(alone.before, rel=1e-6)
    assert alone.after < 0.99 * alone.before
    # At the rate that is found, 1e-2, a loss scaled by 1 + 1e-6 moves one process's own curve by 4e-4.
    np.testing.assert_allclose(got["curve"], alone.curve, rtol=1e-3 if rate is None else 1e-4)
    if rate is None:
        return
    both = twofold.load(tmp_path / "two" / "net.prototxt", tmp_path / "two" / "net.caffemodel")
    for one, other in zip(both.weights.layers, alone.model.weights.layers, strict=True):
        for a, b in zip(one.blobs, other.blobs, strict=True):
            # Where the first gradients say nothing, rounding chooses the directions that are scaled alike.
            np.testing.assert_allclose(a.array(), b.array(), rtol=0, atol=1e-2 * np.abs(b.array()).max())


def test_batches_that_cannot_be_shared():
    inputs = from_arrays(samples(4), {"data": (16, 12, 12)})
    assert RecoverOptions().sized(inputs, 3).batch % 3 == 0
    with pytest.raises(OptionError, match="a batch of 4 cannot be shared evenly by 3 processes"):
        RecoverOptions(batch=4).sized(inputs, 3)
