"""Several processes under torchrun: the plan and the weights of one, byte for byte; and how they end."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.formats.onnx import small
from tests.processes import ended, started, together
from tests.small import write
from tests.test_calibrated import samples

import twofold
from twofold import ranks
from twofold.cli import main
from twofold.decomposition import factorize, statistics
from twofold.errors import InputError, RankError, TwofoldError
from twofold.latency.stopwatch import FirstTimer
from twofold.ranks import Ranks

pytest.importorskip("torch")

CAFFE = ("decompose", "net.prototxt", "net.caffemodel")
#: Without `depthwise`, which fits otherwise here than in the processes that a test starts: see conftest.
SCHEMES = ("--scheme", "spatial", "--scheme", "channel")
CALIBRATED = ("--data", "x.npy", "--macs", "0.5", "--multiple", "4", "--refine", "1", *SCHEMES)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    np.save("x.npy", samples(20, seed=3))
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    """What is written, but for times, the report of them, and the command line."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix not in (".html", ".json", ".toml") or path.name == "plan.json"
    }


def lines(text: str) -> list[str]:
    """Those that say why a command ends."""
    return [line for line in text.splitlines() if line.startswith("twofold: ")]


# ---- the same result


@pytest.mark.slow
def test_two_processes_are_one(folder):
    argv = (*CAFFE, *CALIBRATED)
    done = together(folder, *argv, "-o", "two")
    assert done.returncode == 0, done.stderr
    assert "[W" not in done.stderr, done.stderr  # what PyTorch itself warns of
    assert done.stdout.count("written: ") == 1  # only the first process speaks
    assert not (folder / "stdout.1").read_text() + (folder / "stderr.1").read_text()
    assert main([*argv, "-o", "one"]) == 0
    assert files(folder / "two") == files(folder / "one")


#: Run within a namespace of its own: two hosts with a cable between them, and a node of `torchrun` on each.
HOSTS = """
unshare -n sleep 600 & first=$!
unshare -n sleep 600 & second=$!
trap 'kill $first $second' EXIT
while [ "$(readlink /proc/$first/ns/net)" = "$(readlink /proc/self/ns/net)" ] \\
   || [ "$(readlink /proc/$second/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
ip link add cable0 type veth peer name cable1
node=0
for host in $first $second; do
  ip link set cable$node netns $host
  nsenter -t $host -n ip addr add 10.9.8.$((node + 1))/24 dev cable$node
  nsenter -t $host -n ip link set cable$node up
  nsenter -t $host -n ip link set lo up
  node=$((node + 1))
done
GLOO_SOCKET_IFNAME=cable1 nsenter -t $second -n "$@" --node-rank 1 -m twofold $LINE & other=$!
GLOO_SOCKET_IFNAME=cable0 nsenter -t $first -n "$@" --node-rank 0 -m twofold $LINE && wait $other
"""


def has_namespaces() -> bool:
    tools = all(map(shutil.which, ("unshare", "nsenter", "ip")))
    return tools and not subprocess.run(["unshare", "-Urn", "true"], check=False).returncode


@pytest.mark.slow
def test_two_hosts_are_one(folder):
    if not has_namespaces():
        pytest.skip("the kernel makes no network namespaces for tests")
    line = (*CAFFE, *CALIBRATED)
    node = ("-m", "torch.distributed.run", "--nnodes=2", "--master-addr=10.9.8.1", "--master-port=29411")
    done = subprocess.run(
        ["unshare", "-Urn", "sh", "-c", HOSTS, "hosts", sys.executable, *node],
        env={**paths(), "LINE": " ".join((*line, "-o", "two"))},
        check=False, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert main([*line, "-o", "one"]) == 0
    assert files(folder / "two") == files(folder / "one")


def paths() -> dict[str, str]:
    """The environment in which scripts find the tests and twofold."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_four_processes_are_one(folder):
    """More than there are layers, and the weights alone, which are not cached."""
    argv = (*CAFFE, "--no-data", "--macs", "0.5", "--multiple", "4")
    done = together(folder, *argv, "-o", "four", processes=4)
    assert done.returncode == 0, done.stderr
    assert main([*argv, "-o", "one"]) == 0
    assert files(folder / "four") == files(folder / "one")


def spread_of(outputs) -> float:
    return float(np.std(next(iter(outputs.values()))))


def accuracy_of(predict) -> float:
    """No accuracy, but it falls as one does."""
    outputs = predict({"data": samples(3, seed=8)})
    return float(np.round(np.abs(next(iter(outputs.values()))).mean(), 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"error": 0.1, "statistics": "s.npz", "schemes": "spatial"},
        {"macs": 0.5, "metric": spread_of, "schemes": "spatial"},
        {"accuracy_drop": 0.01, "accuracy": accuracy_of, "schemes": "spatial"},
        {"energy": 0.95, "schemes": "depthwise"},
    ],
    ids=["error and a file", "metric", "accuracy", "promised errors"],
)
def test_every_budget_gives_the_same(folder, options):
    def work(_):
        net = twofold.load("net.prototxt", "net.caffemodel")
        return twofold.decompose(net, data=samples(20, seed=3), multiple=4, refine=1, **options)

    several = in_threads(3, work)
    Path("s.npz").unlink(missing_ok=True)
    assert_same(several, work(None))


@pytest.mark.slow
def test_onnx_goes_on_from_what_others_have_learned(folder, monkeypatch):
    """Whatever their number was: the cache's keys are the same."""
    small.write(folder / "two.onnx", small.two())

    def work(_):
        net = twofold.load("two.onnx")
        return twofold.decompose(
            net, data=samples(12), macs=0.5, multiple=4, schemes=("spatial", "depthwise")
        )

    made = Counter[str]()
    for place, name in ((statistics, "gather"), (factorize, "_made")):
        monkeypatch.setattr(place, name, counted(made, name, getattr(place, name)))
    plain = work(None)
    fits = made["_made"]
    for first, second in ((2, 3), (3, 1)):
        monkeypatch.setenv("TWOFOLD_CACHE", str(folder / f"cache{first}"))
        made.clear()
        assert_same(in_threads(first, work), plain)
        assert made["_made"] == fits  # each once
        made.clear()
        assert_same(in_threads(second, work), plain)
        assert not made


def counted(made, name, function):
    def count(*given):
        made[name] += 1
        return function(*given)

    return count


def assert_same(several, one) -> None:
    """Plans and factors of all processes, byte for byte."""
    for result in several:
        if isinstance(result, Exception):
            raise result
        assert result.plan.to_json() == one.plan.to_json()
        assert result.factors.keys() == one.factors.keys()
        for name, stack in result.factors.items():
            for ours, its in zip(stack.convs, one.factors[name].convs, strict=True):
                assert np.array_equal(ours.weight, its.weight)
                assert ours.bias is its.bias is None or np.array_equal(ours.bias, its.bias)


SCRIPT = """
import numpy as np, torch, twofold
from tests.test_parallel import module

x = np.load("x.npy")
for number, macs in enumerate((0.5, 0.4)):
    twofold.decompose(module(), data=x, macs=macs, multiple=4, schemes=["spatial"]).save(f"two{number}")
    if not number:  # processes meet more than once, the second time in a group of the script's
        torch.distributed.init_process_group("gloo")
torch.distributed.destroy_process_group()
"""


def module() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)).eval()


@pytest.mark.slow
def test_modules_in_a_script_of_torchrun(folder):
    (folder / "script.py").write_text(SCRIPT)
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "script.py"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=600, env=paths())
    assert done.returncode == 0, done.stderr
    for number, macs in enumerate((0.5, 0.4)):
        result = twofold.decompose(
            module(), data=np.load("x.npy"), macs=macs, multiple=4, schemes=["spatial"]
        )
        result.save(f"one{number}")
        assert files(folder / f"two{number}") == files(folder / f"one{number}")


# ---- how they end


@pytest.mark.slow
def test_one_that_is_killed_is_named_and_the_next_run_goes_on(folder, monkeypatch, capsys):
    cache = folder / "cache"
    monkeypatch.setenv("TWOFOLD_CACHE", str(cache))
    argv = (*CAFFE, *CALIBRATED, "-o", "out")
    members = started(folder, *argv)
    while not list(cache.glob("statistics-*")):
        assert all(one.is_alive() for one in members)
        time.sleep(0.005)
    os.kill(members[1].pid, signal.SIGKILL)
    done = ended(folder, members)
    assert done.returncode != 0
    (line,) = lines(done.stderr)
    assert "rank 1 of 2 processes ended in the middle" in line
    assert "Traceback" not in done.stderr
    assert not (folder / "out").exists()
    capsys.readouterr()
    assert main(argv) == 0  # of another number of processes
    assert "read from the cache" in capsys.readouterr().err
    monkeypatch.setenv("TWOFOLD_CACHE", "")
    assert main([*CAFFE, *CALIBRATED, "-o", "one"]) == 0
    assert files(folder / "out") == files(folder / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x[:20000], "rank 1 of 2 processes: x.npy: is not an array"),
        (None, "rank 1 of 2 processes has another model, inputs or options than rank 0"),
    ],
    ids=["damaged", "others"],
)
def test_inputs_that_are_bad_for_one_are_one_line(folder, spoil, said):
    other = folder / "other"
    other.mkdir()
    write(other)
    np.save(other / "x.npy", samples(20, seed=4))
    if spoil:
        (other / "x.npy").write_bytes(spoil((other / "x.npy").read_bytes()))
    done = together(folder, *CAFFE, *CALIBRATED, "-o", "out", elsewhere={1: other})
    assert done.returncode == 1
    (line,) = lines(done.stderr)
    assert said in line
    assert "Traceback" not in done.stderr
    assert not (folder / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--data", "none.npy"), "none.npy: "),
        (("--no-data", "--macs", "0.01"), "a MACs ratio of 0.0100 is out of reach"),
        (("--quiet", "--verbose"), "--quiet and --verbose contradict"),
        (("net.prototxt", "net.caffemodel"), "several models: "),
    ],
    ids=["inputs", "plan", "options", "models"],
)
def test_what_all_reject_is_said_as_one_does(folder, argv, said):
    done = together(folder, *CAFFE, *argv, "-o", "out")
    assert done.returncode == 1
    (line,) = lines(done.stderr)
    assert line.startswith(f"twofold: {said}")


# ---- what they exchange, by threads


#: Seconds within which threads meet.
_PATIENCE = 300


@dataclass
class Table:
    """Where threads meet."""

    size: int
    barrier: threading.Barrier = field(init=False)
    values: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.barrier, self.values = threading.Barrier(self.size), [None] * self.size


@dataclass
class Seat:
    table: Table
    rank: int

    def exchange(self, value: Any) -> list[Any]:
        self.table.values[self.rank] = pickle.dumps(value)
        self.table.barrier.wait(_PATIENCE)
        found = [pickle.loads(one) for one in self.table.values]
        self.table.barrier.wait(_PATIENCE)
        return found

    def first_to_fail(self, reason: str) -> str | None:
        raise NotImplementedError

    def missing(self, patience: float) -> str:
        raise NotImplementedError


def in_threads(size: int, work) -> list[Any]:
    """What each of several processes gives, or raises."""
    table, found = Table(size), [None] * size

    def run(rank: int) -> None:
        own = Ranks(rank, size, Seat(table, rank) if size > 1 else None)
        ranks._here.set(own)  # a thread has a context of its own
        try:
            found[rank] = work(own)
        except Exception as error:
            found[rank] = error
            if not isinstance(error, TwofoldError):  # that all have alike
                table.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return found


def test_tasks_are_taken_in_turn_and_fail_as_in_one_process():
    did: list[tuple[int, int]] = []

    def task(own, number):
        did.append((own.rank, number))
        if number in (3, 1):
            raise InputError(f"task {number}")
        return number

    def work(own, count):
        return own.each("tasks", [lambda n=number: task(own, n) for number in range(count)])

    assert in_threads(2, lambda own: work(own, 1)) == [[0], [0]]
    did.clear()
    errors = in_threads(2, lambda own: work(own, 4))
    assert sorted(did) == [(0, 0), (0, 2), (1, 1), (1, 3)]
    assert [(type(one), str(one)) for one in errors] == [(InputError, "task 1")] * 2


def test_errors_of_some_name_them():
    def work(own, failing):
        def make():
            if own.rank in failing:
                raise InputError("damaged")

        return own.agreed("inputs", make)

    some = in_threads(3, lambda own: work(own, {1, 2}))
    assert [str(one) for one in some] == ["rank 1 of 3 processes: damaged"] * 3
    every = in_threads(2, lambda own: work(own, {0, 1}))
    assert [str(one) for one in every] == ["damaged"] * 2
    apart = in_threads(2, lambda own: own.gather(f"step {own.rank}", 0))
    assert all(isinstance(one, RankError) for one in apart)


def test_work_is_spread_by_its_cost():
    found = Ranks(size=2).split({"a": 3.0, "b": 5.0, "c": 2.0, "d": 2.0})
    assert found == {"b": 0, "a": 1, "c": 1, "d": 0}


def test_the_first_process_alone_measures_times():
    class Timer:
        block, setting = 4, "here"

        def seconds(self, groups, *, anew=False):
            return {"a": 1.0}

        network = pair = None

    def work(own):
        timer = FirstTimer(Timer() if own.first else None, own)
        return timer.setting, timer.block, timer.seconds([])

    assert in_threads(2, work) == [("here", 4, {"a": 1.0})] * 2
