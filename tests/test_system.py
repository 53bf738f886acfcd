"""What the system says becomes one line: which file, what was tried, how much, what to do."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.small import write

from twofold import system
from twofold.cli import main
from twofold.errors import FormatError, InputError, MissingExtraError, OptionError

COMMAND = "import sys; from twofold.cli import main; sys.exit(main())"


def command(*argv: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", options.pop("code", COMMAND), *map(str, argv)],
        text=True, check=False, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


LONG = "x" * 300
PATHS = {
    "NUL": "a\0b",
    "too long": LONG,
    "too long a path": "/".join(["y" * 200] * 30),
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_names_that_no_file_can_have_are_absent(path):
    assert not system.exists(path)
    assert not system.is_file(path)
    assert not system.is_dir(Path(path))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize(
    "argv",
    [
        "inspect {}", "decompose {} -o out", "apply {} net.prototxt net.caffemodel -o out", "report {}",
        "compare {} {} net.prototxt net.caffemodel", "recover net.prototxt net.caffemodel {} -o out",
        "decompose net.prototxt net.caffemodel -o out --images {}", "finetune {}",
        "decompose net.prototxt net.caffemodel -o out --data {}",
        "decompose net.prototxt net.caffemodel -o out --mean {}",
        "decompose net.prototxt net.caffemodel -o out --speedup 2 --latency-table {}",
        "decompose net.prototxt net.caffemodel -o out --accuracy-drop 0.1 --accuracy {}",
        "decompose net.prototxt net.caffemodel -o out --metric {}:f",
    ],
)  # fmt: skip
def test_names_that_no_file_can_have_are_rejected_in_one_line(argv, path, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    # typer itself rejects what is no path at all, as a wrong command line.
    assert main([word.format(path) for word in argv.split()]) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith("twofold: ")
    assert err.count("\n") == 1


def test_a_folder_that_may_not_be_entered_is_named(tmp_path, monkeypatch):
    def denied(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(system.os, "stat", denied)
    for look in (system.exists, system.is_file, system.is_dir):
        with pytest.raises(FormatError, match=r"secret/net: .*Permission denied; change its permissions"):
            look("secret/net")


def test_a_working_directory_that_was_removed_is_named(tmp_path):
    files = [str(Path(file).absolute()) for file in write(tmp_path)]
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); " + COMMAND
    run = command("inspect", *files, code=code, cwd=gone)
    assert run.returncode == 1
    assert run.stderr == "twofold: the working directory: it was removed; change to another one\n"


def test_reading_names_file_reason_and_remedy():
    cases = {
        MemoryError("Unable to allocate 7.28 TiB for an array with shape (1, 2) and data type float32"):
            r"f: cannot read a plan: memory runs out \(7.28 TiB for an array of \(1, 2\)\); .*ulimit -v",
        RecursionError("maximum recursion depth"): "f: is not a plan, or is damaged: it is nested too",
        ValueError("bad\n value"): "f: is not a plan, or is damaged: bad value; x",
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"): "f: is not a plan.*invalid start",
        PermissionError(13, "Permission denied", "f"): "f: cannot read a plan: Permission denied; change its",
        OSError("Unable to open file (truncated)"): "f: is not a plan, or is damaged: Unable to open file",
    }  # fmt: skip
    for error, said in cases.items():
        with pytest.raises(InputError, match=said), system.reading("f", "a plan", "x", error=InputError):
            raise error
    with pytest.raises(KeyError), system.reading("f", "a plan"):
        raise KeyError("a bug stays a bug")


def test_memory_that_runs_out_is_told_whichever_library_says_so():
    torch_error = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
        "to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
    )
    assert "3725.29 GiB" in (system.explain(torch_error) or "")
    assert system.explain(MemoryError()) == "memory runs out; " + system._LESS_MEMORY
    assert system.explain(RuntimeError("shapes do not match")) is None
    assert system.explain(KeyError("x")) is None
    assert "disk: No space left" in (system.explain(OSError(28, "No space left on device", "disk")) or "")


@pytest.mark.parametrize("name", ["inspect", "decompose", "export"])
def test_an_input_of_a_terabyte_is_one_line(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    files = write(tmp_path)
    argv = [name, *files, "--input", "data=1x16x999999x999999"]
    assert main(argv if name == "inspect" else [*argv, "-o", "out.onnx"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("twofold: ")


def test_a_memory_limit_is_one_line(tmp_path):
    """Under `ulimit -v`, as on a shared machine."""
    files = write(tmp_path)
    np.save(tmp_path / "big.npy", np.zeros((4, 16, 12, 12), np.float32))
    header = (
        (tmp_path / "big.npy").read_bytes()[:128].replace(b"(4, 16, 12, 12)", b"(4000000000, 16, 12, 12)")
    )
    (tmp_path / "big.npy").write_bytes(header[:118] + b"\n" + b"\0" * 1000)

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

    run = command(
        "decompose", *files, "-o", tmp_path / "out", "--data", tmp_path / "big.npy", preexec_fn=limit
    )
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "big.npy" in run.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_stdout_is_one_line(tmp_path):
    files = write(tmp_path)
    with open("/dev/full", "w") as full:
        run = command("inspect", *files, stdout=full)
    assert run.returncode == 1
    assert run.stderr.startswith("twofold: stdout: cannot write the results: No space left on device")
    assert run.stderr.count("\n") == 1


def test_closed_streams_do_no_harm(tmp_path):
    """What is opened next would get the number of stderr, and what libraries print would go into it."""
    files = write(tmp_path)
    code = "import os, sys; os.close(2); os.close(0); sys.stderr = None; " + COMMAND
    run = command(
        "decompose", *files, "-o", tmp_path / "out", "--macs", "0.8", code=code, stdout=subprocess.PIPE
    )
    assert run.returncode == 0
    assert "written: " in run.stdout
    json.loads((tmp_path / "out" / "plan.json").read_text())


@pytest.mark.parametrize("entry", ["module", "script"])
def test_an_interrupt_while_it_starts_is_one_line(entry, tmp_path):
    script = tmp_path / "twofold"
    script.write_text("import sys\nfrom twofold.cli import main\nsys.exit(main())\n")
    argv = [sys.executable, *(["-m", "twofold"] if entry == "module" else [str(script)]), "inspect", "net"]
    # Commands import NumPy behind the guard: one that takes long stands for the time that imports take.
    slow = tmp_path / "slow" / "numpy"
    slow.mkdir(parents=True)
    (slow / "__init__.py").write_text("print('now', flush=True)\nimport time; time.sleep(1200)\n")
    path = os.pathsep.join([str(slow.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=1200)
    assert process.returncode == 130
    assert err == "twofold: interrupted; nothing was begun\n"


@pytest.mark.parametrize(("left", "fits"), [(89 << 20, False), (1 << 38, True)])
def test_a_limit_on_memory_that_leaves_too_little_is_said_before_the_work(monkeypatch, left, fits):
    """Without buffers OpenBLAS would ask for them for ever."""
    monkeypatch.setattr(system, "_memory_left", lambda: (1 << 40, left))
    if fits:
        system.take_room()
        return
    with pytest.raises(OptionError, match=r"of which 89 MiB are left .* 192 MiB are needed .*ulimit -v"):
        system.take_room()


def test_a_package_that_does_not_fit_into_memory_is_not_called_missing():
    def fails(text: str) -> MissingExtraError:
        try:
            try:
                raise ImportError(text)
            except ImportError:
                raise MissingExtraError("training", "PyTorch", "torch") from None
        except MissingExtraError as error:
            return error

    assert "memory runs out" in str(
        system.explain(fails("libtorch.so: failed to map segment from shared object"))
    )
    assert system.explain(fails("No module named 'torch'")) is None
