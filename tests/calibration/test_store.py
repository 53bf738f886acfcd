"""The file of statistics: found unwritable before the calibration, written whole, through no planted link."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from twofold.calibration.arrays import read_npy
from twofold.calibration.gather import Statistics
from twofold.calibration.store import load_or_gather, load_statistics
from twofold.conv import LayerStatistics
from twofold.errors import OutputError

LAYER = LayerStatistics(4, np.zeros(3), np.eye(3), (np.eye(3),), None)


def gather(layers):
    return Statistics({"a": LAYER}, {"inputs": {"sha256": "x"}})


def never(layers):
    pytest.fail("the calibration began")


@pytest.mark.parametrize(
    ("name", "says"),
    [("file/s.npz", "Not a directory"), ("n" * 300, "name too long"), ("/proc/s.npz", "No such file")],
)
def test_what_cannot_be_written_is_found_before_the_calibration(tmp_path, name, says):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=says):
        load_or_gather(tmp_path / name, [], never, {}, "x")


def test_too_little_space_is_found_before_the_calibration(tmp_path):
    with pytest.raises(OutputError, match=r"s\.npz: (too little space|cannot write: File too large)"):
        load_or_gather(tmp_path / "s.npz", [], never, {}, "x", size=1 << 60)


def test_a_folder_is_made_and_a_dangling_link_stays_one(tmp_path):
    path, target = tmp_path / "new" / "s.npz", tmp_path / "store" / "real.npz"
    path.parent.mkdir()
    path.symlink_to(target)
    load_or_gather(path, [], gather, {}, "x")
    assert path.is_symlink()
    assert load_statistics(target).layers["a"].count == 4
    assert [one.name for one in path.parent.iterdir()] == ["s.npz"]


def test_a_link_in_the_place_of_a_temporary_is_not_followed(tmp_path):
    """That name was once foretold by the number of the process."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / f".s.npz.{os.getpid()}").symlink_to(victim)
    load_or_gather(tmp_path / "s.npz", [], gather, {}, "x")
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("after", range(0, 1500, 150))
def test_a_disk_that_fills_up_at_any_moment_leaves_nothing(tmp_path, monkeypatch, after):
    fdopen = os.fdopen

    def full(*args, **kwargs):
        stream = fdopen(*args, **kwargs)
        write = stream.write

        class Full:
            def __getattr__(self, name):
                return getattr(stream, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                stream.close()

            def write(self, content):
                if stream.tell() + len(content) > after:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return write(content)

        return Full()

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OutputError, match=r"s\.npz: cannot write: No space left on device"):
        load_or_gather(tmp_path / "out" / "s.npz", [], gather, {}, "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("limit", [None, 2, 9])
def test_arrays_are_read_as_numpy_does(tmp_path, order, limit):
    array = np.asarray(np.random.default_rng(0).random((5, 2, 3)), order=order)
    np.save(tmp_path / "a.npy", array)
    asked = []
    assert np.array_equal(read_npy(tmp_path / "a.npy", limit, asked.append), array[:limit])
    assert asked == [min(limit or 5, 5) * 48 if order == "C" else 240]


def test_an_array_that_is_cut_off_is_named(tmp_path):
    """A mapping ends the process where it is touched."""
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((5, 1000)))
    os.truncate(path, 20_000)
    with pytest.raises(ValueError, match="it is cut off: 20000 of 40128 bytes are there"):
        read_npy(path, 1, lambda size: None)
    np.save(path, np.array([None]), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        read_npy(path, None, lambda size: None)
