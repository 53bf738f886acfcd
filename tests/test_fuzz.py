"""The bounded, seeded part of `make fuzz`: some attacks on every reader, and what it takes to notice harm."""

from __future__ import annotations

import random
import signal

import pytest

from twofold.errors import TwofoldError
from twofold.formats.caffe.model import CaffeModel
from twofold.formats.caffe.prototxt import parse
from twofold.inspect import inspect

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("h5py")
pytest.importorskip("lmdb")

import fuzz.__main__ as fuzz_main
from fuzz import commands, disks, kills, layers, mutate, options, pool, worlds
from fuzz.__main__ import FRACTIONS, _batches
from fuzz.readers import READERS, Reader
from fuzz.table import Row, table

ATTACKS = 25


def read(reader: Reader, number: int, folder) -> bool:
    """Whether an attack was accepted; anything but a rejection is raised."""
    folder.mkdir()
    path = reader.place(folder)
    path.write_bytes(reader.attack(number))
    try:
        reader.read(path)
    except TwofoldError:
        return False
    return True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_attacks_are_read_or_rejected(reader, tmp_path):
    seeds = len(reader.corpus())
    numbers = [*range(seeds), *range(1000, 1000 + ATTACKS)]
    accepted = [read(reader, number, tmp_path / str(number)) for number in numbers]
    assert any(accepted[:seeds]), "not one seed can be read"
    assert len({reader.attack(number) for number in numbers[seeds:]}) > ATTACKS // 2, "attacks do not differ"


def test_layers_without_the_bottoms_or_axes_that_they_need():
    """Every layer type, with bottoms and axes of every kind; shapes and the net in PyTorch."""
    texts = [*layers.combinations()]
    rng = random.Random(0)
    texts = [*rng.sample(texts, 300), *(layers.by_chance(rng) for _ in range(200))]
    accepted = 0
    for text in texts:
        try:
            model = CaffeModel(parse(text.encode(), "net.prototxt"))
            inspect(model)
            model.graph()
            accepted += 1
        except TwofoldError:
            continue
    assert 50 < accepted < 450


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, -16, 6, 6), "sizes are 0 or more"),
        ((1, 2**63 - 1, 6, 6), "at most 2147483647 values"),
        ((1, 3, 999999, 999999), "at most 2147483647 values"),
    ],
)
def test_sizes_that_no_blob_can_have_name_the_layer(shape, said):
    model = CaffeModel(parse(layers.net("ReLU", [shape], None).encode(), "net.prototxt"))
    with pytest.raises(TwofoldError, match=rf"net\.prototxt:2:7: layer 'in0' \(Input\).*{said}"):
        model.convolutions()


def test_a_layer_without_bottoms_is_named():
    model = CaffeModel(parse(layers.net("Convolution", [], None).encode(), "net.prototxt"))
    with pytest.raises(TwofoldError, match=r"layer 'x' \(Convolution\): has no bottom"):
        model.convolutions()


def test_harm_is_noticed(tmp_path, monkeypatch):
    """A reader that raises, one that takes too long, and one that takes too much."""
    import mmap

    def harmful(path):
        match path.read_bytes()[:1]:
            case b"e":
                raise KeyError("nobody thought of this")
            case b"s":
                while True:
                    pass
            case b"m":
                return len(bytearray(b"x" * (64 << 20)))

    seeds = (b"fine", b"error", b"slow", b"memory")
    monkeypatch.setitem(READERS, "bad", Reader("bad", ".txt", harmful, mutate.havoc, seeds=seeds))
    monkeypatch.setattr(pool, "SLOW", 0.2)
    monkeypatch.setattr(pool, "MEMORY", 32 << 20)
    batch = pool.work("bad", range(4), mmap.mmap(-1, 8))
    row = batch.row
    assert (row.inputs, row.accepted, row.uncaught, row.slow, row.greedy) == (4, 2, 1, 1, 1)
    assert [one.number for one in batch.findings] == [1, 2, 3]
    assert row.harm == 3
    assert "bad" in table([row, Row("fine", 1, 1)])


def test_a_command_is_ended_by_the_time_that_it_computes(tmp_path, monkeypatch):
    """Not by the time that a busy machine lets it wait."""

    def compute():
        while True:
            pass

    monkeypatch.setattr(worlds, "SLOW", 1)
    assert worlds.run(tmp_path, "doctor", compute).problem == f"ended by signal {signal.SIGXCPU.value}"


def test_the_seeds_of_all_readers_come_first_and_runs_differ():
    names = list(READERS)
    first = [next(batches) for batches in [_batches(names, 0)] for _ in range(2 * len(names))]
    assert [name for name, _ in first[: len(names)]] == names
    assert all(numbers.start == 0 for _, numbers in first[: len(names)])
    other = [next(batches) for batches in [_batches(names, 1)] for _ in range(2 * len(names))]
    assert first[-1] != other[-1]


def test_each_part_has_its_time_however_long_the_others_took(monkeypatch):
    """Inputs that take ten hours of a run of ten minutes leave commands, kills and disks their own."""
    now, given = [0.0], {}

    def part(name, seconds, least=None):
        given[name] = (seconds, least)
        now[0] += 36_000
        return [Row(name)]

    monkeypatch.setattr(fuzz_main.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        fuzz_main, "fuzz", lambda _, until, least, *__: part("readers", until - now[0], least)
    )
    monkeypatch.setattr(
        fuzz_main, "run_commands", lambda least, _, until, __: part("commands", until - now[0], least)[0]
    )
    for module in (options, kills, disks):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(
            module, "rows", lambda minutes, _, name=name, least=None: part(name, 60 * minutes, least)
        )
    asked = "--minutes 10 --seed 1 --inputs 50000 --commands 300 --kills 100"
    assert fuzz_main.main(asked.split()) == 0
    assert {name: seconds for name, (seconds, _) in given.items()} == pytest.approx(
        {name: 600 * fraction for name, fraction in FRACTIONS.items()}
    )
    assert {name: least for name, (_, least) in given.items() if least} == {
        "readers": 50000, "commands": 300, "kills": 100
    }  # fmt: skip
    assert sum(FRACTIONS.values()) == pytest.approx(1)


def test_as_many_commands_run_as_were_asked_for_though_time_is_over(monkeypatch):
    def ends(name, number, typed, row):
        row.inputs += 1
        return ""

    monkeypatch.setattr(commands, "_run", ends)
    assert commands.run_commands(40, 0, 0.0, lambda finding: None).inputs == 40
    assert commands.run_commands(0, 0, 0.0, lambda finding: None).inputs == 0
