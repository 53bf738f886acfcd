from __future__ import annotations

import json
import os

import pytest

from twofold.cli import main
from twofold.errors import FormatError
from twofold.latency.clock import Time
from twofold.latency.table import Setting, Table, load, path_of, save

SETTING = Setting("onnxruntime", "1.0", "A CPU", 2)
TIME = Time(0.002, 0.001, 0.003, 7)


def test_times_come_back_and_add_up():
    assert load(SETTING).times == {}
    save(Table(SETTING, {"a": TIME}))
    save(Table(SETTING, {"b": TIME.scaled(2)}))
    assert load(SETTING) == Table(SETTING, {"a": TIME, "b": TIME.scaled(2)})


@pytest.mark.parametrize(
    "other",
    [
        Setting("opencv", "1.0", "A CPU", 2),
        Setting("onnxruntime", "1.1", "A CPU", 2),
        Setting("onnxruntime", "1.0", "B CPU", 2),
        Setting("onnxruntime", "1.0", "A CPU", 4),
    ],
)
def test_another_setting_has_a_table_of_its_own(other):
    save(Table(SETTING, {"a": TIME}))
    assert load(other).times == {}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"twofold_latency": 9}', '{"twofold_latency": 1, "times": 3}']
)
def test_a_damaged_table_is_named(content, cache):
    save(Table(SETTING, {"a": TIME}))
    path_of(SETTING).write_text(content)
    with pytest.raises(FormatError, match=r"\.json: .*remove it"):
        load(SETTING)


def test_a_folder_that_cannot_be_written_is_no_obstacle(cache):
    cache.write_text("a file where the folder should be")
    save(Table(SETTING, {"a": TIME}))
    assert load(SETTING).times == {}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_times_of_several_processes_all_stay(cache):
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            try:
                for part in range(10):
                    save(Table(SETTING, {f"{number}-{part}": TIME}))
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert set(load(SETTING).times) == {f"{number}-{part}" for number in range(4) for part in range(10)}
    assert [path.name for path in cache.iterdir()] == [path_of(SETTING).name]


def test_show(capsys):
    assert main(["latency", "show"]) == 0
    assert "nothing was measured yet" in capsys.readouterr().out
    save(Table(SETTING, {"1 x 8x8: 4->6 3x3": TIME}))
    assert main(["latency", "show"]) == 0
    out = capsys.readouterr().out
    assert "onnxruntime 1.0, A CPU, 2 thread(s)" in out
    assert "1 x 8x8: 4->6 3x3    2.000   0.500" in out
    assert main(["latency", "show", "--runtime", "opencv"]) == 0
    assert "nothing" in capsys.readouterr().out
    assert main(["latency", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["setting"]["threads"] == 2
    assert main(["latency", "show", "--runtime", "mine"]) == 1
    assert "known: onnxruntime" in capsys.readouterr().err


def test_tables_of_one_runtime_are_forgotten_damaged_ones_too(capsys):
    cuda, other = Setting("torch-cuda", "1.0", "A GPU", 2), Setting("torch", "1.0", "A CPU", 4)
    for setting in (SETTING, cuda, other):
        save(Table(setting, {"a": TIME}))
    path_of(other).write_text("damaged")
    assert main(["latency", "forget", "--runtime", "torch"]) == 0
    assert str(path_of(other)) in capsys.readouterr().out
    assert load(SETTING).times == load(cuda).times == {"a": TIME}
    assert load(other).times == {}
    assert main(["latency", "forget", "--runtime", "nope"]) == 1
    assert main(["latency", "forget", "--json"]) == 0
    assert load(SETTING).times == load(cuda).times == {}
