"""Results of earlier runs: the same bytes with them and without, nothing twice, nothing in the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.small import HEAD, conv, write
from torch import nn

import twofold
from twofold.cli import main
from twofold.decomposition import calibrate, effects, factorize, recalled, sensitivity, statistics
from twofold.decomposition.cache import RunCache, standard_cache
from twofold.decomposition.recalled import RecalledFits
from twofold.files.cache import Cache, Entry, cache_folder
from twofold.fingerprint import Description

#: Two layers to decompose, small enough to be fitted in a moment.
NET = HEAD.replace("dim: 16", "dim: 8") + "".join(
    part.replace("num_output: 64", "num_output: 24") for part in (conv("one", "data"), conv("two", "one"))
)
#: One whose fit has all ranks, one that fits every rank by itself.
OPTIONS = {"macs": 0.6, "multiple": 4, "refine": 1, "schemes": ("spatial", "depthwise")}


class Work:
    """Counts the costly steps, and stops before one of them where it is told to."""

    def __init__(self, monkeypatch) -> None:
        self.done, self.stop = Counter(), ("", 0)
        for place, name in (
            (statistics, "gather"),
            (calibrate, "gather_remainders"),
            (factorize, "_made"),
            (recalled, "_fit"),
            (sensitivity, "_trials"),
        ):
            monkeypatch.setattr(place, name, self._counted(name, getattr(place, name)))
        add = effects.Effects.add
        monkeypatch.setattr(effects.Effects, "add", self._counted("add", add))

    def _counted(self, name, function):
        def counted(*args, **kwargs):
            step, number = self.stop
            if step == name and self.done[name] >= number:
                raise KeyboardInterrupt
            self.done[name] += 1
            return function(*args, **kwargs)

        return counted

    def stopped(self, step: str, number: int, function) -> None:
        """Run a function that is interrupted before a step."""
        self.done.clear()
        self.stop = (step, number)
        with pytest.raises(KeyboardInterrupt):
            function()
        self.stop = ("", 0)

    def during(self, function) -> Counter:
        self.done.clear()
        function()
        return Counter(self.done)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path) -> list[str]:
    return write(tmp_path, NET)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(12, 8, 12, 12)).astype(np.float32)


def written(files: list[str], x: np.ndarray, **options) -> dict[str, bytes]:
    """Decompose, and read what is written."""
    out = Path(files[0]).parent / "out"
    result = twofold.decompose(twofold.load(*files), data=x, **{**OPTIONS, **options})
    return {path.name: path.read_bytes() for path in result.save(out, force=True)}


def entries(folder: Path) -> dict[str, int]:
    return Counter(one.piece for one in Cache(folder).entries())


# ---- the same bytes, and nothing twice


@pytest.mark.parametrize(
    "budget",
    [{"macs": 0.6}, {"macs": 0.6, "schemes": "depthwise"}, {"macs": None, "error": 0.4}],
    ids=["mixed", "rank by rank", "error"],
)
def test_results_are_the_same_with_and_without(files, x, folder, monkeypatch, budget):
    with monkeypatch.context() as patch:  # the fits as they are made, with nothing around them
        patch.setattr(factorize.RecalledFits, "of", lambda layer, requests, *_: RecalledFits(layer, requests))
        plain = written(files, x, cache=False, **budget)
    assert written(files, x, cache=False, **budget) == plain
    assert not folder.exists()
    work = Work(monkeypatch)
    assert written(files, x, **budget) == plain
    work.done.clear()
    assert written(files, x, **budget) == plain
    assert not work.done  # the whole run was read
    budget = {**budget, "macs": 0.4, "error": None}
    other = written(files, x, cache=False, **budget)
    work.done.clear()
    assert written(files, x, **budget) == other
    assert other != plain
    assert work.done["gather"] == work.done["_made"] == work.done["add"] == 0
    assert work.done["_fit"] <= 2  # the chosen schemes of two layers, at other ranks


def test_results_are_the_same_of_modules_and_onnx_files(tmp_path, folder, monkeypatch):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=2), nn.Linear(8, 8))
    x = torch.randn(12, 3, 12, 12)

    def state():
        found = twofold.decompose(module.eval(), data=x, ranks={"2": 4}, macs=0.9, multiple=2)
        return {name: value.numpy() for name, value in found.model.module.state_dict().items()}

    first = state()
    work = Work(monkeypatch)
    second = state()
    assert not work.done
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


@pytest.mark.parametrize(
    ("step", "number", "kept"),
    [
        ("_made", 0, {"gather"}),
        ("_trials", 0, {"gather", "_made"}),
        ("add", 5, {"gather", "_made"}),
        ("gather_remainders", 0, {"gather", "_made", "add", "_trials"}),
    ],
)
def test_a_run_that_was_killed_goes_on(files, x, folder, monkeypatch, step, number, kept):
    plain = written(files, x, cache=False)
    monkeypatch.setattr(effects, "PAUSE", 0.0)
    work = Work(monkeypatch)
    whole = work.during(lambda: written(files, x))
    Cache(folder).clear()
    work.stopped(step, number or whole[step] - 1, lambda: written(files, x))
    again = {}
    rest = work.during(lambda: again.update(written(files, x)))
    assert again == plain
    assert not any(rest[name] for name in kept)
    assert rest[step] < whole[step] or whole[step] == 1


def test_layers_that_were_tried_are_not_tried_again(files, x, folder, monkeypatch):
    work = Work(monkeypatch)
    whole = work.during(lambda: written(files, x))["add"]
    Cache(folder).clear()
    work.stopped("add", whole - 1, lambda: written(files, x))
    rest = work.during(lambda: written(files, x))["add"]
    assert 1 <= rest <= whole // 2  # the candidates of the last layer


# ---- what results depend on


def test_whatever_a_result_depends_on_is_in_its_key(files, x, folder, tmp_path, monkeypatch):
    work = Work(monkeypatch)
    written(files, x)

    def gathered(files=files, x=x, **options) -> int:
        return work.during(lambda: written(files, x, **options))["gather"]

    assert gathered() == 0
    assert gathered(x=np.where(x == x.flat[0], 0, x).astype(np.float32)) == 1  # one value
    assert gathered(calibration=twofold.CalibrationOptions(seed=1)) == 1
    assert gathered(calibration=twofold.CalibrationOptions(gradients=False)) == 1
    assert gathered(targets="one", only="one", macs=0.9) == 1
    other = tmp_path / "other"
    other.mkdir()
    assert gathered(files=write(other, NET)) == 0  # the same content elsewhere
    text = NET.replace('bottom: "one"', 'bottom: "relu"') + ""
    text = text.replace('layer {\n  name: "two"', RELU + 'layer {\n  name: "two"')
    assert gathered(files=write(other, text)) == 1
    from twofold import fingerprint

    monkeypatch.setattr(fingerprint.package_digest, "__wrapped__", None, raising=False)
    monkeypatch.setattr("twofold.decomposition.cache.package_digest", lambda: "a later version")
    assert gathered() == 1


RELU = 'layer { name: "relu" type: "ReLU" bottom: "one" top: "relu" }\n'


def test_a_model_that_was_edited_in_memory_is_another(files, x, folder, monkeypatch):
    model = twofold.load(*files)
    result = twofold.decompose(model, data=x, **OPTIONS)
    work = Work(monkeypatch)
    done = work.during(lambda: twofold.decompose(result.model, data=x, ranks={"*": 2}))
    assert done["gather"] == 1


def factor() -> float:
    return 1.0


class Scaled(nn.Module):
    """Computes with an attribute, with a function of this file, and with a value that it closes over."""

    def __init__(self, scale: float, shift) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.scale, self.shift = scale, shift
        self.register_buffer("offset", torch.zeros(1), persistent=False)

    def forward(self, x):
        return self.shift(self.conv(x) * self.scale * factor() + self.offset)


def described(module: nn.Module) -> str:
    from twofold.formats.torch.model import TorchModel

    return TorchModel(module).fingerprint()


def shifted(by: float):
    return lambda x: x + by


def test_code_and_attributes_of_a_module_are_in_its_fingerprint(monkeypatch):
    def made(scale=1.0, by=0.0) -> Scaled:
        torch.manual_seed(0)
        return Scaled(scale, shifted(by))

    first = described(made())
    assert described(made()) == first
    assert described(made(scale=2.0)) != first
    assert described(made(by=1.0)) != first
    changed = made()
    changed.offset += 1
    assert described(changed) != first
    with torch.no_grad():
        changed = made()
        changed.conv.bias[0] += 1e-6
    assert described(changed) != first
    monkeypatch.setattr(f"{__name__}.factor.__code__", (lambda: 2.0).__code__)
    assert described(made()) != first


def test_what_code_reads_from_elsewhere_shows_in_the_outputs(folder, monkeypatch):
    """A forward that asks the environment: its hash is the same, and what it gives is not."""

    class Elsewhere(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3)

        def forward(self, x):
            return self.conv(x * float(os.environ["SCALE"]))

    torch.manual_seed(0)
    module, x = Elsewhere().eval(), torch.randn(12, 3, 8, 8)
    work = Work(monkeypatch)

    def gathered(scale: str) -> int:
        monkeypatch.setenv("SCALE", scale)
        return work.during(lambda: twofold.decompose(module, data=x, ranks={"*": 4}))["gather"]

    assert [gathered(scale) for scale in ("1", "1", "3", "3", "1")] == [1, 0, 1, 0, 0]


def test_a_value_that_holds_itself_ends():
    ring: list[object] = []
    ring.append(ring)
    assert Description(lambda value: None).of(ring) == ["list", ["again", 0]]


# ---- nothing stands in the way


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "shorter":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "pickled":
        np.savez(path, header=np.array({"a": 1}), allow_pickle=True)
    elif how == "another":
        np.savez(path, header=np.array(json.dumps({"value": "x"})))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # a bomb
            archive.writestr("header.npy", b"\x93NUMPY\x01\x00v\x00" + b" " * (1 << 20))


@pytest.mark.parametrize("how", ["shorter", "flipped", "empty", "pickled", "another", "bomb"])
def test_damaged_entries_are_computed_anew_and_replaced(files, x, folder, caplog, how):
    plain = written(files, x, cache=False)
    written(files, x)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for path in before:
        damage(path, how)
    assert written(files, x) == plain
    assert all(path.exists() for path in before)
    if how != "another":
        assert "cannot read" in caplog.text or "is damaged" in caplog.text
    caplog.clear()
    assert written(files, x) == plain
    assert not caplog.text


def test_a_folder_that_cannot_be_written_costs_one_note(files, x, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path / "file" / "cache"))
    command = ["decompose", *files, "--data", str(tmp_path / "x.npy"), "--macs", "0.6", "--multiple", "4"]
    assert main([*command, "-o", str(tmp_path / "out"), "--no-report"]) == 0
    said = capsys.readouterr().err
    assert said.count("not cached") == 1
    assert "--no-cache ends this note" in said
    assert main([*command, "-o", str(tmp_path / "off"), "--no-report", "--no-cache"]) == 0
    assert "cache" not in capsys.readouterr().err
    assert (tmp_path / "out" / "plan.json").read_bytes() == (tmp_path / "off" / "plan.json").read_bytes()


def test_a_disk_that_gets_full_costs_one_note(files, x, folder, caplog, monkeypatch):
    plain = written(files, x, cache=False)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("twofold.files.cache.np.savez", full)
        assert written(files, x) == plain
    assert caplog.text.count("No space left on device") == 1
    assert list(Cache(folder).entries()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_share_a_folder(files, x, folder, tmp_path):
    plain = written(files, x, cache=False)

    def run(number: int) -> None:
        out = tmp_path / f"out{number}"
        twofold.decompose(twofold.load(*files), data=x, **OPTIONS).save(out)

    members = [multiprocessing.get_context("fork").Process(target=run, args=(i,)) for i in range(3)]
    for member in members:
        member.start()
    for number, member in enumerate(members):
        member.join(120)
        assert member.exitcode == 0
        assert {path.name: path.read_bytes() for path in (tmp_path / f"out{number}").iterdir()} == plain
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    keys = [f"{number:064x}" for number in range(6)]
    array = {"a": np.zeros(1000)}
    cache = Cache(tmp_path, 5 * 9000)
    for number, key in enumerate(keys[:5]):
        cache.put("error", key, Entry({"n": number}, array))
        path = tmp_path / f"error-{key}.npz"
        os.utime(path, (number, number))
    cache.get("error", keys[0])
    (tmp_path / "of-the-user.npz").write_bytes(b"x" * 10**6)
    other = Cache(tmp_path, 5 * 9000)
    other.put("error", keys[5], Entry({}, array))
    left = [key for key in keys if other.has("error", key)]
    assert left[0] == keys[0]
    assert left[-1] == keys[5]
    assert keys[1] not in left
    assert sum(one.size for one in other.entries()) <= 5 * 9000
    other.put("error", keys[1], Entry({}, {"a": np.zeros(10**6)}))  # larger than all together
    assert not other.has("error", keys[1])
    assert len(other.clear()) == len(left)
    assert (tmp_path / "of-the-user.npz").exists()


def test_a_scheme_whose_fits_do_not_tell_what_they_know_is_not_cached(files, x, folder, monkeypatch):
    """A scheme of the user's may fit every rank by itself and give no more than errors."""
    made = factorize._made
    monkeypatch.setattr(factorize, "_made", lambda *given: replace(made(*given), known=None))
    plain = written(files, x, cache=False)
    assert written(files, x) == written(files, x) == plain
    assert "fits" not in entries(folder)
    assert entries(folder)["statistics"]


# ---- what users see


def test_the_commands_tell_and_remove(folder, capsys, monkeypatch):
    cache = standard_cache()
    for key in ("0" * 64, "1" * 64):
        cache.put("fits", key, Entry({}, {"errors0": np.zeros(100)}))
    assert main(["cache", "show"]) == 0
    shown = capsys.readouterr().out
    assert str(folder) in shown
    assert "fits" in shown
    assert main(["cache", "show", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(folder)
    assert told["results"]["fits"] == {"count": 2, "bytes": told["bytes"]}
    assert main(["cache", "clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == 2
    assert list(cache.entries()) == []
    monkeypatch.setenv("TWOFOLD_CACHE", "")
    for command in ("show", "clear"):
        assert main(["cache", command]) == 0
    assert standard_cache() is None


def test_its_size_is_an_amount_of_memory(folder, monkeypatch, capsys):
    monkeypatch.setenv("TWOFOLD_CACHE_SIZE", "2M")
    assert standard_cache().limit == 2 << 20
    monkeypatch.setenv("TWOFOLD_CACHE_SIZE", "much")
    assert main(["cache", "show"]) == 1
    assert "TWOFOLD_CACHE_SIZE: memory: 'much' is no amount" in capsys.readouterr().err


def test_a_format_without_a_fingerprint_is_not_cached():
    class Model:
        pass

    assert RunCache.of(Cache(Path("nowhere")), Model(), None, None, None).cache is None


@pytest.mark.parametrize("home", ["~/.cache/twofold", "/somewhere/twofold"])
def test_without_a_home_directory_nothing_is_kept(home, monkeypatch):
    monkeypatch.delenv("TWOFOLD_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path(home))
    assert cache_folder() == (None if home.startswith("~") else Path(home) / "results")


def test_a_folder_that_may_not_be_searched_has_nothing(tmp_path, monkeypatch):
    def deny(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.stat", deny)
    assert not Cache(tmp_path).has("fits", "0" * 64)
