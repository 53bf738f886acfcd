"""What users give that is no file: functions, seeds, weights without bounds; and what is offered to them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.small import NET, random_blobs, write

import twofold
from twofold.caffe_torch import to_torch
from twofold.calibration.measure import number_of
from twofold.cli import main
from twofold.errors import (
    InputError,
    ModelError,
    OptionError,
    TwofoldError,
    command_line,
    lacking,
    offering,
    remedy,
)
from twofold.files.recovery import Journal, recover


def rejected(capsys, argv: list[str], *said: str) -> str:
    code = main(argv)
    err = capsys.readouterr().err.splitlines()[-1]
    assert code == 1, err
    for words in said:
        assert words in err
    return err


@pytest.mark.parametrize("command", ["decompose", "quantize"])
def test_a_negative_seed(command, tmp_path, capsys):
    pytest.importorskip("torch")
    files = write(tmp_path)
    rejected(capsys, [command, *files, "-o", str(tmp_path / "out"), "--seed", "-1"], "seed", "-1")


def raises(outputs):
    raise ZeroDivisionError("no samples")


@pytest.mark.parametrize(
    ("function", "kind", "said"),
    [
        (raises, OptionError, "the metric fails: ZeroDivisionError: no samples; mend the function"),
        (lambda outputs: "0.5", InputError, "gave '0.5'; it must give a finite number"),
        (lambda outputs: None, InputError, "gave 'None'"),
        (lambda outputs: np.zeros(3), InputError, "must give a finite number"),
        (lambda outputs: float("nan"), InputError, "gave 'nan'"),
    ],
)
def test_what_a_function_of_the_users_gives(function, kind, said):
    with pytest.raises(kind, match=said):
        number_of("the metric", function, {})


def test_numbers_of_every_kind_are_taken():
    for number in (1, 0.5, np.float32(2), np.array(3.0), True):
        assert number_of("the metric", lambda _, number=number: number, {}) == float(number)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("f = 3", "is no function"),
        ("", "attribute"),
    ],
)
def test_a_metric_whose_module_cannot_be_imported(text, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = f"metric_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    files = write(tmp_path)
    rejected(capsys, ["decompose", *files, "-o", "out", "--metric", f"{name}:f"], "--metric", said)


def test_remedies_name_only_options_that_there_are():
    with lacking("no-data"):
        assert remedy("; or {}", "no_data=True") == ""
        assert remedy("; or {}", "targets") == "; or targets"
        with lacking("targets"):
            assert remedy("{}", "no_data=True") + remedy("{}", "targets") == ""
    assert remedy("; or {}", "no_data=True") == "; or no_data=True"


@pytest.mark.parametrize("command", ["quantize", "recover", "compare"])
def test_weights_that_are_not_finite(command, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("pytorch_optimizer")
    blobs = random_blobs(NET)
    (tmp_path / "good").mkdir()
    good = write(tmp_path / "good")
    blobs["two"][0][3, 2, 1, 0] = np.nan
    files = write(tmp_path, NET, blobs)
    models = files if command == "quantize" else [*good, *files]
    out = [] if command == "compare" else ["-o", str(tmp_path / "out")]
    err = rejected(capsys, [command, *models, *out])
    assert "--no-data" not in err
    assert "--skip" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_recovery_on_values_without_bounds(tmp_path):
    pytest.importorskip("pytorch_optimizer")
    model = twofold.load(*write(tmp_path))
    smaller = twofold.decompose(model, macs=0.5, no_data=True)
    data = np.random.default_rng(0).standard_normal((8, 16, 12, 12)).astype(np.float32) * np.float32(1e30)
    with pytest.raises(TwofoldError, match=r"finite|bounds"):
        twofold.recover(model, smaller, options=twofold.RecoverOptions(steps=2), data=data)


def test_a_variance_without_a_root_names_the_layer(tmp_path):
    torch = pytest.importorskip("torch")
    text = NET + 'layer { name: "bn" type: "BatchNorm" bottom: "out" top: "bn" }\n'
    variance = np.array([1, -1e-7, -0.5, 1, 1], np.float32)
    blobs = {**random_blobs(NET), "bn": [np.zeros(5, np.float32), variance, np.ones(1, np.float32)]}
    model = twofold.load(*write(tmp_path, text, blobs))
    data = torch.zeros(1, 16, 12, 12)
    said = pytest.raises(ModelError, match=r"'bn' \(BatchNorm\): the variance of channel 2 is -0.5")
    with said:
        to_torch(model)(data)
    pytest.importorskip("onnx")
    with said:
        twofold.export(model, tmp_path / "net.onnx")
    # What does not need it is computed all the same: other blobs, and training, by the batch's own.
    assert to_torch(model)(data, blobs=["out"])["out"].isfinite().all()
    assert to_torch(model, "TRAIN")(data)["bn"].isfinite().all()


def test_a_variance_of_a_fork_names_the_layer(tmp_path):
    torch = pytest.importorskip("torch")
    text = NET + 'layer { name: "bn" type: "BN" bottom: "out" top: "bn" bn_param { frozen: true } }\n'
    one, variance = np.ones((1, 5, 1, 1), np.float32), np.array([1, np.nan, -2, 1, 1], np.float32)
    blobs = {**random_blobs(NET), "bn": [one, one, one, variance.reshape(one.shape)]}
    net = to_torch(twofold.load(*write(tmp_path, text, blobs)))
    with pytest.raises(ModelError, match=r"'bn' \(BN\): the variance of channel 1 is nan, which has no root"):
        net(torch.zeros(1, 16, 12, 12))


def test_blobs_that_no_weights_hold_take_bounded_memory(tmp_path):
    """A line of text asks for any number of GiB; the rest of the net is run without it."""
    torch = pytest.importorskip("torch")
    more = 'type: "InnerProduct" bottom: "out" top: "more" inner_product_param { num_output: 3000000 }'
    text = f'{NET}layer {{ name: "more" {more} }}\n'
    net = to_torch(twofold.load(*write(tmp_path, text, random_blobs(NET))))
    assert net(torch.zeros(1, 16, 12, 12), blobs=["out"])["out"].shape[1] == 5
    with pytest.raises(
        ModelError, match=r"'more' \(InnerProduct\): blob 0 has shape .* GiB, which no weights"
    ):
        net.check()


@pytest.mark.parametrize(
    "content",
    [
        {"decided_by": "a\0b", "needed_by": [], "renames": []},
        {"decided_by": "JOURNAL", "needed_by": ["\0"], "renames": []},
        {"decided_by": "JOURNAL", "needed_by": [], "renames": [["NEW", "a\0b"]]},
        {"decided_by": "JOURNAL", "needed_by": [], "renames": [["NEW", "\ud800"]]},
        {"decided_by": "JOURNAL", "needed_by": [], "renames": [["NEW", "../out"]]},
        {"decided_by": "/etc/passwd", "needed_by": [], "renames": [["NEW", "target"]]},
    ],
)
def test_a_crafted_journal_moves_nothing(content, tmp_path):
    stem = f".twofold-{'0' * 16}"
    text = json.dumps(content).replace("JOURNAL", f"{stem}-journal").replace("NEW", f"{stem}-new0")
    (tmp_path / f"{stem}-journal").write_text(text)
    (tmp_path / f"{stem}-new0").write_text("new")
    assert Journal.read(tmp_path / f"{stem}-journal") == Journal("", (), ())
    assert recover(tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_a_command_is_offered_its_own_options_only():
    with command_line(), offering({"--targets", "--limit"}):
        assert remedy("; or {}", "no_data=True") == ""
        assert remedy("; or {}", "targets") == "; or --targets"
    with command_line(), offering(None):
        assert remedy("; or {}", "skip='a'", "--skip a") == "; or --skip a"
