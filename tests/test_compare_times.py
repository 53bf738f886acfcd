"""Times in a comparison: one for every runtime that is installed and runs both models."""

from __future__ import annotations

import time
from importlib import import_module
from types import SimpleNamespace

import pytest
from tests.small import NET, write

import twofold
from twofold.calibration.gather import CalibrationOptions
from twofold.calibration.source import CalibrationSource
from twofold.cli import main
from twofold.errors import ModelError, OptionError
from twofold.latency import clock
from twofold.latency.runtimes import installed
from twofold.latency.runtimes.opencv import OpenCv


@pytest.fixture
def both(tmp_path):
    model = twofold.load(*write(tmp_path))
    return model, twofold.decompose(model, macs=0.5, no_data=True, multiple=4).model


SOURCE = CalibrationSource(options=CalibrationOptions(synthetic=2))


def test_every_runtime_of_the_kind(both, monkeypatch):
    monkeypatch.setattr(import_module("twofold.compare"), "installed", installed)
    found = twofold.compare(*both, SOURCE, threads=1)
    wanted = [one.label for one in installed() if {"caffe", "onnx", "torch"} & set(one.reads)]
    assert [time.runtime.partition(",")[0] for time in found.times] == wanted
    assert len(wanted) >= 6
    for one in found.times:
        assert min(one.seconds) > 0
        assert f"time in {one.runtime}" in str(found)


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        ((), []),
        (("opencv",), ["OpenCV DNN"]),
        ("torch", ["PyTorch CPU"]),
        (["torch", "opencv", "torch"], ["PyTorch CPU", "OpenCV DNN"]),
    ],
)
def test_only_the_runtimes_that_are_named(both, named, wanted):
    found = twofold.compare(*both, SOURCE, runtimes=named, threads=1)
    assert [time.runtime.partition(",")[0] for time in found.times] == wanted


def test_a_runtime_that_does_not_exist_is_rejected_before_the_work(both):
    with pytest.raises(OptionError, match="caffe2"):
        twofold.compare(*both, SOURCE, runtimes=["caffe2"], on_batch=lambda *_: pytest.fail("work was done"))


def test_what_the_command_is_told(tmp_path, capsys):
    files = [str(path) for path in write(tmp_path)]
    assert main(["compare", *files, *files, "--runtime", "opencv", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "time in OpenCV DNN, 1 thread(s)" in printed
    assert printed.count("time in ") == 1
    assert main(["compare", *files, *files, "--runtime", "none"]) == 0
    assert "time in " not in capsys.readouterr().out
    assert main(["compare", *files, *files, "--runtime", "none", "--runtime", "opencv"]) == 1
    assert "--runtime none" in capsys.readouterr().err


def test_a_runtime_that_fails_is_a_note_and_no_end(both, monkeypatch):
    def fail(self, whole, threads):
        raise ModelError("cannot be opened here")

    monkeypatch.setattr(OpenCv, "whole", fail)
    found = twofold.compare(*both, SOURCE, threads=1)
    assert "no time in OpenCV DNN: cannot be opened here" in found.notes
    assert [time for time in found.times if "PyTorch" in time.runtime]


def test_a_slower_model_is_seen_as_slower(tmp_path, monkeypatch):
    # The processor's time, of which others that are at work take none.
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=time.process_time))
    small = twofold.load(*write(tmp_path), inputs={"data": (1, 16, 64, 64)})
    (tmp_path / "twice").mkdir()
    text = NET.replace('bottom: "one"', 'bottom: "more"').replace(
        'layer {\n  name: "two"',
        "".join(
            f'layer {{ name: "{top}" type: "Convolution" bottom: "{bottom}" top: "{top}"\n'
            "  convolution_param { num_output: 64 kernel_size: 3 pad: 1 } }\n"
            for bottom, top in (("one", "m1"), ("m1", "m2"), ("m2", "m3"), ("m3", "m4"), ("m4", "more"))
        )
        + 'layer {\n  name: "two"',
    )
    large = twofold.load(*write(tmp_path / "twice", text), inputs={"data": (1, 16, 64, 64)})
    for one in twofold.compare(small, large, SOURCE, threads=1).times:
        assert one.ratio > 1.5, one
