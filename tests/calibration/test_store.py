"""The file of statistics: found unwritable before the calibration, written whole, through no planted link."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from twofold.calibration.gather import Statistics
from twofold.calibration.grouped import accumulator
from twofold.calibration.sound import unsound
from twofold.calibration.statistics import StatisticsOptions
from twofold.calibration.store import SavedStatistics, load_or_gather, load_statistics, save_statistics
from twofold.conv import ConvGeometry, ConvLayer, LayerStatistics
from twofold.errors import FormatError, InputError, OutputError
from twofold.files.arrays import read_npy

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
    """That name was once predicted by the number of the process."""
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


GEOMETRIES = [
    ConvGeometry.of(6, 8, (3, 3)), ConvGeometry.of(6, 8, (3, 1), groups=2), ConvGeometry.of(6, 8, (1, 1)),
    ConvGeometry.of(6, 6, (3, 3), groups=6), ConvGeometry.of(6, 8, (3,)),
]  # fmt: skip


def layer_of(geometry):
    return ConvLayer("a", geometry, np.ones(geometry.weight_shape, np.float32))


def gathered(geometry, memory=None):
    found = accumulator(geometry, StatisticsOptions(memory=memory))
    size = (2, geometry.c_in, *(9,) * len(geometry.kernel))
    found.update(np.random.default_rng(0).standard_normal(size).astype(np.float32))
    return found.result()


@pytest.mark.parametrize("memory", [None, 100])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_what_is_gathered_is_sound(geometry, memory):
    assert unsound(layer_of(geometry), gathered(geometry, memory)) is None


def swapped(name, change):
    def damage(found):
        value = getattr(found, name)
        if name == "strips":
            return replace(found, strips=(change(value[0]), *value[1:]))
        return replace(found, **{name: change(value)})

    return damage


def raised(array, place, value):
    changed = array.copy()
    changed[place] = value
    return changed


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (swapped("mean", lambda a: a[:-1]), r"its mean has shape \(71,\), and the layer needs \(72,\)"),
        (swapped("covariance", lambda a: a[:8, :8]), r"its covariance has shape \(8, 8\)"),
        (
            swapped("strips", lambda a: a[:4, :4]),
            r"its strip0 has shape \(4, 4\), and the layer needs \(24, 24\)",
        ),
        (lambda found: replace(found, strips=found.strips[:1]), "has 1 strips, and the layer 2 axes"),
        (lambda found: replace(found, gradient=np.eye(8)), r"its gradient has shape \(8, 8\)"),
        (lambda found: replace(found, gradient=-np.eye(6)), "its gradient is no covariance"),
        (swapped("covariance", lambda a: raised(a, (3, 3), -1.0)), "its covariance is no covariance"),
        (swapped("covariance", lambda a: raised(a, (0, 1), 9.0)), "its covariance is no covariance"),
        (
            swapped("strips", lambda a: raised(a, (0, 0), 1e300)),
            "its strip0 has values that no inputs in float32",
        ),
        (swapped("mean", lambda a: raised(a, 0, 1e308)), "its mean has values that no inputs"),
    ],
)
def test_statistics_that_are_none_of_the_layers_are_rejected(tmp_path, damage, says):
    """Those of a file that fits the net and the inputs by name, which only then are looked at."""
    layer = layer_of(GEOMETRIES[0])
    saved = SavedStatistics(
        {"a": damage(gathered(GEOMETRIES[0]))}, {"inputs": {"sha256": "x"}, "sources": {}}
    )
    save_statistics(tmp_path / "s.npz", saved)
    # The reader has a word of its own for a mean and a covariance that differ.
    with pytest.raises(
        (InputError, FormatError), match=rf"s\.npz: .*layer 'a': ({says}|a covariance of shape)"
    ):
        load_or_gather(tmp_path / "s.npz", [layer], never, {}, "x")
    assert re.match(says, unsound(layer, saved.layers["a"]))
