"""Set before numpy is imported: BLAS threads of several test processes would fight for the same cores."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow, which says nothing about the code. What fails once fails again, on every machine.
settings.register_profile(
    "twofold", deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
settings.load_profile("twofold")

# A job in a shell's background ignores Ctrl-C, and so would every command that a test starts and interrupts.
if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Compiled code is kept, whatever the shell says: else every worker, and every command that a test starts,
# would compile all of it again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# What one test has computed must not come back in another: tests of the cache name a folder of their own.
os.environ["TWOFOLD_CACHE"] = ""


#: What trains, plans or calibrates from end to end, or starts browsers and many processes.
SLOW = (
    "benchmarks", "calibration/preprocessing/test_found.py", "calibration/test_batches.py",
    "calibration/test_onnx_runner.py", "calibration/test_torch_runner.py",
    "calibration/test_varying_outputs.py", "docs/test_contributing.py", "docs/test_pages.py",
    "finetune/test_command.py", "finetune/test_int8_net.py", "finetune/test_parallel.py",
    "finetune/test_qat.py", "finetune/test_train.py", "formats/onnx/test_external.py",
    "formats/onnx/test_macs.py", "formats/onnx/test_model.py", "int8/test_agree.py",
    "latency/test_isolated.py", "latency/test_target.py", "latency/test_torch_cpu.py", "onnx_torch",
    "recover", "report/test_browser.py", "report/test_layout.py", "report/test_report.py",
    "test_abreast.py", "test_amct_torch.py", "test_bare.py", "test_cache.py", "test_calibrated.py",
    "test_cli.py", "test_compare.py", "test_compare_times.py", "test_completion.py", "test_decompose.py",
    "test_dry_run.py", "test_export.py", "test_forms.py", "test_fuzz.py", "test_kills.py", "test_kinds.py",
    "test_parallel.py", "test_quantize.py", "test_system.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and run the longest first: real models, then what is slow."""
    for item in items:
        if Path(os.path.relpath(item.path, Path(__file__).parent)).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("models", "slow")])


@pytest.fixture(autouse=True, scope="module")
def little_fitting(request: pytest.FixtureRequest) -> Iterator[None]:
    """The scheme `depthwise` searches in few evaluations, which else take half of a decomposition's time.

    How well it fits is shown in `lowrank` and by real models, where it takes as many as users get.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name != "lowrank" and request.node.get_closest_marker("models") is None:
            depthwise = import_module("twofold.lowrank.depthwise")
            for name, evaluations in (("_DRAFT", 4), ("_WARM", 6), ("_MORE", 0), ("_ANEW", 8)):
                patch.setattr(depthwise, name, evaluations)
        yield


#: Runtimes that start no process here.
HERE = ("onnxruntime", "opencv", "torch")


@pytest.fixture(autouse=True, scope="session")
def little_timing() -> Iterator[None]:
    """Nets and layers are timed in three rounds, and `compare` does it in the runtimes of this process.

    As long as users are made to wait, tests would wait, too, and longer on a busy machine. How long that is
    stands in `latency/test_clock.py`; that every runtime takes part in `test_compare_times.py`; PyTorch's
    processes in `latency/test_torch_cpu.py`.
    """
    clock, runtimes = (import_module(f"twofold.latency.{name}") for name in ("clock", "runtimes"))
    few = clock.Effort(0, 3, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            import_module("twofold.latency.stopwatch"),
            "interleaved",
            lambda runs, _: clock.interleaved(runs, few),
        )
        patch.setattr(
            import_module("twofold.compare"), "installed",
            lambda: [one for one in runtimes.installed() if one.name in HERE],
        )  # fmt: skip
        with suppress(ImportError):
            torch_cpu = import_module("twofold.latency.runtimes.torch_cpu")
            patch.setattr(torch_cpu, "make_runtime", torch_cpu.TorchRuntime)
        yield
