"""Write Fashion-MNIST as databases that Caffe's Data layers read.

Usage: python make_data.py [FOLDER]

FOLDER holds the four files of the data set (train-images-idx3-ubyte.gz and so on), by default where the
Debian package `dataset-fashion-mnist` puts them. Without installing that package:

    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb fashion
    python make_data.py fashion/usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from twofold.finetune.data import Datum

HERE = Path(__file__).resolve().parent
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
#: Name of the database -> how its files are called.
PARTS = {"train": "train", "test": "t10k"}
#: How many test images are kept beside the nets.
KEPT = 500


def read(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 28, 28) and labels (N,) of a part, "train" or "t10k"."""
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28),
        np.frombuffer(labels, np.uint8, offset=8),
    )


def write_database(path: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Write images in random order: a Data layer reads them one after the other."""
    order = np.random.default_rng(0).permutation(len(images))
    with lmdb.open(str(path), map_size=1 << 30) as database, database.begin(write=True) as transaction:
        for key, index in enumerate(order):
            datum = Datum.of(images[index][None], int(labels[index]))
            transaction.put(b"%08d" % key, datum.serialize())


def main() -> int:
    """Write both databases, and the few test images; gives the exit code."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEBIAN
    if not folder.is_dir():
        print(f"{folder} is not there.\n\n{__doc__}", file=sys.stderr)
        return 1
    for name, part in PARTS.items():
        target = HERE / f"{name}_lmdb"
        if target.exists():
            print(f"{target} is there already")
            continue
        images, labels = read(folder, part)
        write_database(target, images, labels)
        print(f"{target}: {len(labels)} images")
    images, labels = read(folder, "t10k")
    np.savez_compressed(HERE / "test_images.npz", images=images[:KEPT], labels=labels[:KEPT])
    return 0


if __name__ == "__main__":
    sys.exit(main())
