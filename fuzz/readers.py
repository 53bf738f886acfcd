"""Everything that reads a file from outside: how it is attacked, and what reads it as the commands do."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twofold import decompose
from twofold.backends import load
from twofold.calibration.images import ImageOptions, load_images
from twofold.calibration.inputs import load_data
from twofold.calibration.mean import read_mean
from twofold.calibration.runners import runner_for
from twofold.calibration.store import load_statistics
from twofold.files.recovery import recover
from twofold.finetune.data import Locator, Request, open_reader
from twofold.finetune.nets import open_solver
from twofold.finetune.storage import read_state
from twofold.formats.caffe.net import read_net
from twofold.formats.caffe.prototxt import parse
from twofold.inspect import inspect
from twofold.latency.offline import read_table
from twofold.latency.table import read as read_times
from twofold.planning import Plan
from twofold.report import Report
from twofold.report.page import page

from . import layers, mutate

CORPUS = Path(__file__).parent / "corpus"
IMAGE = {"data": (3, 8, 8)}


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        name: of its folder in the corpus.
        suffix: of a file of this kind.
        read: reads a file as the commands do, in a folder that also holds what goes with it.
        mutate: makes an attack of a seed.
        beside: names in the corpus of files that go with it.
        seeds: files of the corpus to begin with; by default those of its folder.
    """

    name: str
    suffix: str
    read: Callable[[Path], object]
    mutate: mutate.Mutator
    beside: tuple[str, ...] = ()
    seeds: tuple[bytes, ...] = field(default=(), repr=False)

    def corpus(self) -> tuple[bytes, ...]:
        """The seeds, in the order of their names."""
        return self.seeds or tuple(
            path.read_bytes() for path in sorted((CORPUS / self.name).iterdir()) if path.is_file()
        )

    def attack(self, number: int) -> bytes:
        """The attack of a number, always the same; the seeds themselves come first."""
        seeds = self.corpus()
        if number < len(seeds):
            return seeds[number]
        rng = random.Random(f"{self.name}{number}")
        return self.mutate(rng.choice(seeds), rng)

    @staticmethod
    def path_of(name: str) -> Path:
        """A file of the corpus."""
        return CORPUS / name

    def place(self, folder: Path) -> Path:
        """Put what goes with an attack into a folder; gives the path of the attack itself."""
        for name in self.beside:
            source = CORPUS / name
            shutil.copy(source, folder / source.name)
        return folder / f"attack{self.suffix}"


def _model(*names: str) -> Callable[[Path], object]:
    """Loads a model, lists its layers, and asks what a calibration would."""

    def read(path: Path) -> object:
        model = load(*(path if name == "*" else path.with_name(name) for name in names))
        table = str(inspect(model, ("spatial",)))
        runner_for(model)
        return table, model.graph(), model.notes, model.sources()

    return read


def _training(path: Path) -> object:
    return open_solver(path, Locator(path.parent), lambda definition: definition)


def _data_layer(path: Path, text: str) -> object:
    """The first two batches of a data layer whose source is the file."""
    (spec,) = read_net(parse(text.encode()), "TRAIN").layers
    reader = open_reader(Request(spec, "TRAIN", Locator(path.parent)), 0)
    return [reader.batch(number) for number in range(2)]


def _lmdb(path: Path) -> object:
    return _data_layer(
        path, 'layer { name: "d" type: "Data" top: "x" top: "y" data_param '
        '{ source: "attack.mdb" backend: LMDB batch_size: 2 } }'
    )  # fmt: skip


def _hdf5_data(path: Path) -> object:
    path.with_name("list.txt").write_text(path.name)
    return _data_layer(
        path, 'layer { name: "d" type: "HDF5Data" top: "data" top: "label" hdf5_data_param '
        '{ source: "list.txt" batch_size: 2 } }'
    )  # fmt: skip


def _image_list(path: Path) -> object:
    return _data_layer(
        path, 'layer { name: "d" type: "ImageData" top: "x" top: "y" image_data_param '
        '{ source: "attack.txt" batch_size: 2 new_height: 8 new_width: 8 } }'
    )  # fmt: skip


def _plan(path: Path) -> object:
    plan = Plan.load(path)
    model = load(path.with_name("net.prototxt"), path.with_name("net.caffemodel"))
    return str(plan), plan.to_json(), plan.check(model.convolutions())


def _report(path: Path) -> object:
    return page(Report.load(path))


def _known_statistics(path: Path) -> object:
    """Statistics that belong to the net and the inputs beside them, so that a plan is made of them."""
    model = load(path.with_name("net.prototxt"), path.with_name("net.caffemodel"))
    return str(decompose(model, macs=0.8, multiple=2, data=path.with_name("data.npy"), statistics=path).plan)


def _times(path: Path) -> object:
    table = read_times(path)
    return [f"{1e3 * time.median:.3f} {time.spread:.3f} {time.rounds}" for time in table.times.values()]


def _journal(path: Path) -> object:
    name = f".twofold-{'0' * 16}-journal"
    path.rename(path.with_name(name))
    path.with_name(f".twofold-{'0' * 16}-new0.txt").write_text("new")
    return recover(path.parent)


def _by_chance(_: bytes, rng: random.Random) -> bytes:
    return layers.by_chance(rng).encode()


_CAFFE = ("prototxt/net.prototxt", "caffemodel/net.caffemodel")
READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("prototxt", ".prototxt", _model("*", "net.caffemodel"), mutate.text, _CAFFE[1:]),
        Reader(
            "layers",
            ".prototxt",
            _model("*"),
            _by_chance,
            seeds=(layers.net("ReLU", [(1, 16, 6, 6)], None).encode(),),
        ),
        Reader("caffemodel", ".caffemodel", _model("net.prototxt", "*"), mutate.wire, _CAFFE[:1]),
        Reader("hdf5", ".caffemodel.h5", _model("net.prototxt", "*"), mutate.havoc, _CAFFE[:1]),
        Reader("onnx", ".onnx", _model("*"), mutate.wire),
        Reader("solver", ".prototxt", _training, mutate.text, _CAFFE[:1]),
        Reader("solverstate", ".solverstate", read_state, mutate.wire),
        Reader("plan", ".json", _plan, mutate.document, _CAFFE),
        Reader("report", ".json", _report, mutate.document),
        Reader("statistics", ".npz", load_statistics, mutate.archive),
        Reader("known", ".npz", _known_statistics, mutate.archive, (*_CAFFE, "npy/data.npy")),
        Reader("latency", ".json", _times, mutate.document),
        Reader("times", ".csv", read_table, mutate.text),
        Reader("lmdb", ".mdb", _lmdb, mutate.havoc),
        Reader("hdf5data", ".h5", _hdf5_data, mutate.havoc),
        Reader("imagelist", ".txt", _image_list, mutate.text, ("image/gray.png",)),
        Reader("image", ".png", lambda path: load_images(path, IMAGE, ImageOptions(size=(8, 8))), mutate.png),
        Reader("npy", ".npy", lambda path: load_data(path, IMAGE, limit=2), mutate.array),
        Reader("npz", ".npz", lambda path: load_data(path, IMAGE, limit=2), mutate.archive),
        Reader("mean", ".binaryproto", read_mean, mutate.wire),
        Reader("journal", ".txt", _journal, mutate.document),
    )
}


def read(name: str, path: Path) -> Any:
    """Read a file by the reader of that name."""
    return READERS[name].read(path)
