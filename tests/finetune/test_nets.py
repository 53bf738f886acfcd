"""Which nets a solver trains and tests, and where their files are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from twofold.errors import FormatError, InputError, OptionError
from twofold.finetune.data import Locator
from twofold.finetune.definition import UNHEEDED, SolverDefinition
from twofold.finetune.nets import NET_FIELDS, SolverFile, open_solver
from twofold.formats.caffe.schema import MESSAGES

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "train" type: "ReLU" bottom: "x" top: "a" include { phase: TRAIN } }
layer { name: "test" type: "ReLU" bottom: "x" top: "b" include { phase: TEST } }
layer { name: "deep" type: "ReLU" bottom: "x" top: "c" include { phase: TEST stage: "deep" } }
layer { name: "high" type: "ReLU" bottom: "x" top: "d" include { min_level: 2 } }
"""


def opened(folder: Path, solver: str, **nets: str) -> SolverFile:
    for name, text in nets.items():
        (folder / f"{name}.prototxt").write_text(text)
    (folder / "solver.prototxt").write_text(solver + ("" if "lr_policy" in solver else FIXED))
    return open_solver(folder / "solver.prototxt", Locator(folder))


FIXED = ' lr_policy: "fixed" '


def names(net) -> list[str]:
    return [spec.name for spec in net.layers]


def test_one_net_for_both_phases(tmp_path):
    got = opened(tmp_path, 'net: "n.prototxt" test_iter: [2, 3] test_interval: 5', n=NET)
    assert names(got.train) == ["x", "train"]
    assert [names(net) for net in got.tests] == [["x", "test"]] * 2


def test_nets_of_their_own_come_before_the_common_one(tmp_path):
    solver = (
        'net: "n.prototxt" test_iter: [1, 1, 1] test_interval: 5 test_net: "t.prototxt" '
        f"test_net_param {{ name: 'inline' {NET} }}"
    )
    got = opened(tmp_path, solver, n=NET, t='name: "t"' + NET)
    assert [net.name for net in got.tests] == ["inline", "t", ""]


def test_states_choose_layers(tmp_path):
    solver = (
        'net: "n.prototxt" test_iter: [1, 1] test_interval: 5 train_state { level: 2 } '
        'test_state { stage: "deep" } test_state { level: 3 }'
    )
    got = opened(tmp_path, solver, n=NET)
    assert names(got.train) == ["x", "train", "high"]
    assert [names(net) for net in got.tests] == [["x", "test", "deep"], ["x", "test", "high"]]


def test_a_net_in_the_text_of_the_solver_keeps_its_places(tmp_path):
    got = opened(tmp_path, f"base_lr: 1\n\nnet_param {{{NET}}}")
    assert names(got.train) == ["x", "train"]
    assert got.train.layers[0].where == f"{tmp_path}/solver.prototxt:4:7"
    with pytest.raises(FormatError, match=r"solver.prototxt:2:"):
        opened(tmp_path, 'base_lr: 1\nnet_param { layer { name: "x" type: 3 } }')


@pytest.mark.parametrize(
    ("solver", "says"),
    [
        ("base_lr: 1", "names one net to train, by one of net, net_param, train_net, train_net_param"),
        ('net: "n.prototxt" train_net: "n.prototxt"', "names one net to train"),
        ('train_net: "n.prototxt" test_iter: 1 test_interval: 1', "1 test_iter for 0 test nets"),
        ('net: "n.prototxt" test_net: "n.prototxt"', "0 test_iter for 1 test nets"),
        ('net: "n.prototxt" iter_size: 0', r"solver.prototxt: iter_size is 0"),
        ('net: "n.prototxt" lr_policy: "cosine"', r"solver.prototxt: .*lr_policy 'cosine'; known:"),
        (
            'net: "n.prototxt" lr_policy: "fixed" type: "X"',
            r"solver.prototxt: .*solver type 'X'; known:",
        ),
        ('net: "n.prototxt" test_iter: 1', "test_iter needs a positive test_interval"),
        ('net: "n.prototxt" test_iter: 1 test_interval: 1 test_state {} test_state {}', "2 test_state for 1"),
    ],
)
def test_what_caffe_refuses(tmp_path, solver, says):
    with pytest.raises(OptionError, match=says):
        opened(tmp_path, solver, n=NET)


def test_the_working_directory_comes_first(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder, solver = Path("../sub"), 'net: "n.prototxt"'
    with pytest.raises(
        InputError, match=r"its net 'n.prototxt' is neither in the working directory.*\.\./sub"
    ):
        opened(folder, solver)
    (folder / "n.prototxt").write_text('name: "beside"' + NET)
    locate = Locator(folder)
    assert open_solver(folder / "solver.prototxt", locate).train.name == "beside"
    assert "taken from ../sub/n.prototxt" in locate.notes[0]
    Path("n.prototxt").write_text('name: "here"' + NET)
    locate = Locator(folder)
    assert open_solver(folder / "solver.prototxt", locate).train.name == "here"
    assert locate.notes == []


def test_every_field_of_a_solver_is_honoured_or_spoken_of(tmp_path):
    known = {name for names in NET_FIELDS.values() for name in names}
    known |= {field for field in SolverDefinition.__dataclass_fields__}
    known |= {"train_state", "test_state", "solver_type", "snapshot_diff"} | UNHEEDED.keys()
    assert known == MESSAGES["SolverParameter"].keys()
    got = opened(tmp_path, 'net: "n.prototxt" solver_mode: CPU debug_info: true', n=NET)
    assert [note.split(": ")[1] for note in got.notes] == [
        "solver_mode is not heeded",
        "debug_info is not heeded",
    ]
