"""Former spellings work for one release, and say so."""

from __future__ import annotations

from importlib import import_module

import pytest

from twofold import CalibrationOptions
from twofold.calibration.source import CalibrationSource
from twofold.cli import main
from twofold.codec import from_plain
from twofold.conv import ConvGeometry
from twofold.formats.caffe.layer_types import Linear
from twofold.planning import Budget
from twofold.renamed import OPTIONS, former, todays


def test_former_options_are_replaced_with_a_note():
    words, notes = todays(["decompose", "--made-up", "5", "--also=a", "--macs=1"])
    assert words == ["decompose", "--synthetic", "5", "--average-with=a", "--macs=1"]
    assert len(notes) == 2
    assert "--synthetic now" in notes[0]


@pytest.mark.parametrize(("command", "option"), [("decompose", "--synthetic"), ("recover", "--average-with")])
def test_todays_options_exist(capsys, command, option):
    assert option in OPTIONS.values()
    assert main([command, "--help"]) == 0
    assert option in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "former", "today"),
    [
        ("caffe_onnx", "emits", "register"),
        ("caffe_onnx", "forget", "unregister"),
        ("caffe_torch", "stateless", "register_stateless"),
        ("onnx_torch", "operator", "register"),
        ("finetune.data", "reads", "register"),
    ],
)
def test_former_functions_are_todays(module, former, today):
    module = import_module(f"twofold.{module}")
    with pytest.warns(FutureWarning, match=f"{former} is called {today} now"):
        assert getattr(module, former) == getattr(module, today)


def test_former_fields_are_read_and_written():
    with pytest.warns(FutureWarning, match="'kind' is called 'metric'"):
        budget = Budget(kind="macs", value=0.5)
    with pytest.warns(FutureWarning, match="kind is called metric"):
        assert budget.kind == budget.metric == "macs"
    linear = ConvGeometry.linear(3, 4)
    with pytest.warns(FutureWarning, match="meaning is called semantics"):
        assert linear.meaning is linear.semantics
    # A file of a former release.
    former = {"kind": "error", "value": 0.1, "absolute": False}
    assert from_plain(Budget, former, "budget") == Budget("error", 0.1)


def test_classes_of_users_may_have_former_members():
    with pytest.warns(FutureWarning, match="means is called layer_type"):

        class Own(Linear):
            means = "convolution"

    assert Own.layer_type == "convolution"


def test_former_keywords_are_replaced_with_a_warning():
    with pytest.warns(FutureWarning, match="synthetic"):
        assert CalibrationOptions(made_up=5).synthetic == 5
    with pytest.warns(FutureWarning, match="targets"):
        assert CalibrationSource(protect=("y",)).targets == ("y",)
    with pytest.raises(TypeError, match="former name"):
        former(old="new")(dict)(old=1, new=2)
