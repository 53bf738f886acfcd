"""Tests for twofold.latency.runtimes.torch_cpu."""

import logging
import pickle
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from torch import nn

from twofold.conv import ConvGeometry
from twofold.errors import ModelError
from twofold.formats.torch.model import TorchModel
from twofold.latency.guest import GuestRun
from twofold.latency.nets import opened
from twofold.latency.runtimes.torch_cpu import MEMORY, CpuRuntime
from twofold.latency.stacks import Stack
from twofold.latency.table import Setting, path_of

STACK = Stack((ConvGeometry.of(6, 4, (3, 3)),), (8, 8))


class Holder(nn.Module):
    """Holds a thing that no other process can have."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.lock = threading.Lock()

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        return self.conv(x)


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        raise ValueError("two\nlines")


def model(module):
    return TorchModel(module, (torch.zeros(1, 3, 8, 8),))


def test_stacks_share_a_process_and_networks_have_their_own():
    found = CpuRuntime()
    with found.running(1):
        with found.running(1):
            first, second = found.stack(STACK, 1), found.stack(STACK, 1)
            assert first.seconds(2) > 0
            assert first.guest is second.guest
        with opened(found, 1, model(nn.Conv2d(3, 4, 3)), model(nn.Conv2d(3, 8, 3))) as (before, after):
            assert before.seconds(1) > 0
            assert after.seconds(1) > 0
            again = found.stack(STACK, 1)
            assert again.guest is first.guest
            assert again.number == 0  # those of before are closed
            processes = [run.guest._process for run in (before._run, after._run, again)]
            assert len({process.pid for process in processes}) == 3
        assert [process.poll() is None for process in processes] == [False, False, True]
    assert processes[2].poll() is not None


def test_a_module_that_cannot_be_sent_is_timed_here_and_that_is_said(caplog):
    with caplog.at_level(logging.WARNING), opened(CpuRuntime(), 1, model(Holder())) as (run,):
        run()
    assert "PyTorch is timed in this process" in caplog.text
    assert "cannot pickle '_thread.lock' object" in caplog.text


def test_networks_that_are_timed_in_turn_are_in_one_place():
    found = CpuRuntime()
    with opened(found, 1, model(nn.Conv2d(3, 4, 3)), model(Holder())) as runs:
        stack = found.stack(STACK, 1)
        assert not any(isinstance(run, GuestRun) for run in (*(one._run for one in runs), stack))
        assert all(run.seconds(1) > 0 for run in runs)


def test_what_runs_when_work_is_stopped_is_not_waited_for():
    found, begun = CpuRuntime(), []

    def stop():
        with found.running(1):
            begun.append(found.stack(STACK, 1).guest)
            pickle.dump(("seconds", (0, 10**9)), begun[0]._pipes[0])
            begun[0]._pipes[0].flush()
            raise KeyboardInterrupt

    with found.running(1):
        with pytest.raises(KeyboardInterrupt):
            stop()
        assert found.stack(STACK, 1).guest is not begun[0]


def test_times_hold_for_the_memory_settings_they_were_measured_with(monkeypatch):
    for name in MEMORY:
        monkeypatch.delenv(name, raising=False)
    plain = Setting.of(CpuRuntime(), 1)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1073741824")
    kept = Setting.of(CpuRuntime(), 1)
    assert plain.version == torch.__version__
    assert path_of(kept) != path_of(plain)
    assert "MALLOC_TRIM_THRESHOLD_=1073741824" in str(kept)


def test_a_forward_that_fails_is_one_line():
    with pytest.raises(ModelError, match="PyTorch CPU cannot run the model: two"):  # noqa: SIM117
        with opened(CpuRuntime(), 1, model(Failing())):
            pass


def test_a_class_of_a_script_can_be_sent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import torch
            from torch import nn
            from twofold.formats.torch.model import TorchModel
            from twofold.latency.nets import opened
            from twofold.latency.runtimes.torch_cpu import CpuRuntime

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.conv = nn.Conv2d(3, 4, 3)

                def forward(self, x):
                    return self.conv(x)

            with opened(CpuRuntime(), 1, TorchModel(Net(), (torch.zeros(1, 3, 8, 8),))) as (run,):
                print(type(run._run).__name__, run.seconds(1) > 0)
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("GuestRun True\n", "")
