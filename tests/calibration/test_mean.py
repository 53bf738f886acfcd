"""Means as numbers and from files."""

import struct

import numpy as np
import pytest

from twofold.calibration.images import ImageOptions
from twofold.calibration.mean import read_mean
from twofold.errors import InputError, OptionError

RNG = np.random.default_rng(3)


def binaryproto(mean):
    """BlobProto as compute_image_mean writes it: legacy num, channels, height, width, packed data."""
    dims = b"".join(
        bytes([number << 3, size]) for number, size in zip((1, 2, 3, 4), (1, *mean.shape), strict=True)
    )
    data = struct.pack(f"<{mean.size}f", *mean.ravel())
    length, encoded = len(data), b""
    while length >= 0x80:
        encoded += bytes([length & 0x7F | 0x80])
        length >>= 7
    return dims + bytes([5 << 3 | 2]) + encoded + bytes([length]) + data


@pytest.fixture
def mean():
    return RNG.uniform(0, 255, (3, 6, 5)).astype(np.float32)


def test_numbers():
    assert read_mean("104, 117,123.5") == (104.0, 117.0, 123.5)
    assert read_mean("127.5") == (127.5,)
    assert ImageOptions(mean="1,2,3").mean == (1.0, 2.0, 3.0)


def test_files(tmp_path, mean):
    (tmp_path / "mean.binaryproto").write_bytes(binaryproto(mean))
    np.save(tmp_path / "mean.npy", mean.astype(np.float64))
    np.save(tmp_path / "channels.npy", np.array([1, 2, 3]))
    np.testing.assert_array_equal(read_mean(tmp_path / "mean.binaryproto"), mean)
    np.testing.assert_array_equal(read_mean(tmp_path / "mean.npy"), mean)
    np.testing.assert_array_equal(read_mean(str(tmp_path / "channels.npy")), [1, 2, 3])
    options = ImageOptions(mean=tmp_path / "mean.binaryproto")
    np.testing.assert_allclose(options.channel_mean(3), mean.mean(axis=(1, 2)), rtol=1e-6)


def test_what_is_no_mean(tmp_path, mean):
    (tmp_path / "html").write_text("<html>")
    (tmp_path / "short").write_bytes(binaryproto(mean)[:-4])
    (tmp_path / "empty").write_bytes(b"")
    np.save(tmp_path / "flat.npy", np.zeros((3, 4)))
    np.save(tmp_path / "nan.npy", np.full(3, np.nan))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    for name in ("html", "short", "empty", "flat.npy", "nan.npy", "text.npy"):
        with pytest.raises(InputError, match=name):
            read_mean(tmp_path / name)
    for text in ("missing.binaryproto", "1;2", ""):
        with pytest.raises(OptionError, match="neither numbers"):
            read_mean(text)
