"""A folder with all that the writing commands need, and commands that run there in forked processes.

The parent has imported everything, so that a command costs its own work alone.
"""

from __future__ import annotations

import importlib
import io
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twofold.formats.caffe.caffemodel import NewLayer, create_weights

NET = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 8 dim: 8 dim: 8 } } }
layer { name: "one" type: "Convolution" bottom: "data" top: "one"
  convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }
layer { name: "two" type: "Convolution" bottom: "one" top: "two"
  convolution_param { num_output: 16 kernel_size: 3 pad: 1 } }
"""
TRAINING = """name: "tiny"
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 4 dim: 1 dim: 6 dim: 6 } shape { dim: 4 }
  data_filler { type: "gaussian" } data_filler { type: "constant" } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "score" type: "InnerProduct" bottom: "conv" top: "score"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""
SOLVER = """net: "train.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 4 snapshot: 2
snapshot_prefix: "out/tiny" random_seed: 1 """

#: Each command that writes; all write into `out`.
COMMANDS = {
    "decompose": "decompose net.prototxt net.caffemodel -o out --data data.npy --statistics out/s.npz "
    "--macs 0.6",
    "weights": "decompose net.prototxt net.caffemodel -o out --no-data --macs 0.7",
    "apply": "apply made/plan.json net.prototxt net.caffemodel -o out",
    "recover": "recover net.prototxt net.caffemodel made -o out --data data.npy --steps 2 --rate 0.01",
    "quantize": "quantize net.prototxt net.caffemodel -o out --data data.npy",
    "export": "export net.prototxt net.caffemodel -o out/net.onnx",
    "latency": "latency export net.prototxt net.caffemodel -o out",
    "compare": "compare net.prototxt net.caffemodel made --data data.npy --report out --threads 1",
    "report": "report made -o out/page.html",
    "finetune": "finetune solver.prototxt -o out",
}
#: Files that say when they were made; of the others equal work makes equal bytes.
_DATED = ("report.json", "report.html", "page.html", ".resume")
#: Modules that commands import late.
_ALWAYS = ("twofold.cli.commands", "twofold.cli.make", "twofold.cli.report", "twofold.report")
_LATE = (
    "typer._adapters",
    "twofold.cli.check",
    "twofold.cli.deploy",
    "twofold.cli.improve",
    "twofold.cli.times",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime.quantization",
    "twofold.finetune",
    "twofold.recover.train",
    "twofold.caffe_torch",
    "twofold.caffe_onnx",
    "twofold.int8.weights",
    "twofold.int8.qdq",
)

#: Seconds of processor time that a command may take, and of waiting, which is long: machines are busy.
SLOW, STUCK = 60, 1800.0


@dataclass(frozen=True)
class Ran:
    """How a command ended.

    Attributes:
        code: its exit code, or minus the number of the signal.
        said: what it printed.
        count: what the child counted, such as file events.
    """

    code: int
    said: str
    count: int = 0

    @property
    def problem(self) -> str:
        """What no command may do, "" where it did not."""
        last = self.said.strip().splitlines()[-1:] or [""]
        if self.code < 0:
            return f"ended by signal {-self.code}"
        if self.code not in (0, 1, 2) or "Traceback" in self.said:
            return f"exit code {self.code}: {self.said[-1500:]}"
        if self.code and not last[0].startswith("twofold: "):
            return f"exit code {self.code} without a reason: {last[0][:200]}"
        return ""


@contextmanager
def world(*, late: bool = True) -> Iterator[Path]:
    """A folder with a net, data, a solver, and what one decomposition made.

    Args:
        late: import what all commands need, not only those that work from weights alone.
    """
    for name in (*_ALWAYS, *(_LATE if late else ())):
        with suppress(ImportError):  # an extra that is not installed; its commands say so
            importlib.import_module(name)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        rng = np.random.default_rng(0)
        (folder / "net.prototxt").write_text(NET)
        (folder / "train.prototxt").write_text(TRAINING)
        (folder / "solver.prototxt").write_text(SOLVER)
        layers = []
        for name, outputs, inputs in (("one", 32, 8), ("two", 16, 32)):
            blobs = (_normal(rng, outputs, inputs, 3, 3) / inputs, _normal(rng, outputs))
            layers.append(NewLayer(name, "Convolution", blobs))
        stream = io.BytesIO()
        create_weights(layers).write(stream)
        (folder / "net.caffemodel").write_bytes(stream.getvalue())
        np.save(folder / "data.npy", _normal(rng, 20, 8, 8, 8))
        made = run(folder, COMMANDS["weights"].replace("-o out", "-o made"))
        if made.code:
            raise RuntimeError(f"the world cannot be made: {made.said}")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def run(folder: Path, typed: str, begin: Callable[[], object] | None = None) -> Ran:
    """Run a command in a child; `begin` is called there first, and may give what counts something."""
    for name in ("tmp", "cache"):
        (folder / name).mkdir(exist_ok=True)
    (said, saying), (counted, counting) = os.pipe(), os.pipe()  # no files, which limits would cut
    child = os.fork()
    if not child:
        code = 70
        try:
            os.dup2(saying, 1)
            os.dup2(saying, 2)
            code = _child(folder, typed, begin, counting)
        finally:
            os._exit(code)
    os.close(saying)
    os.close(counting)
    try:
        output, status = _wait(child, said)
        return Ran(
            os.waitstatus_to_exitcode(status),
            output.decode("utf-8", "replace"),
            int(os.read(counted, 99) or 0),
        )
    finally:
        os.close(said)
        os.close(counted)


def _wait(child: int, said: int) -> tuple[bytes, int]:
    """Read what a child says until it ends; gives also how."""
    until, output = time.monotonic() + STUCK, b""
    os.set_blocking(said, False)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        with suppress(BlockingIOError):
            while piece := os.read(said, 1 << 16):
                output += piece
        if ended:
            return output, status
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def _child(folder: Path, typed: str, begin: Callable[[], object] | None, counted: int) -> int:
    from twofold.cli import main  # noqa: PLC0415 - imported already, where there is time for it

    resource.setrlimit(resource.RLIMIT_CPU, (SLOW, SLOW + 5))
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - the process ends
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ["TWOFOLD_LATENCY_CACHE"] = str(folder / "cache")
    os.environ["TWOFOLD_CACHE"] = ""  # each run on its own
    tempfile.tempdir = str(folder / "tmp")
    counter = begin() if begin is not None else None
    try:
        code = main(typed.split())
    except BaseException:
        import traceback  # noqa: PLC0415

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if callable(counter):
        os.write(counted, str(counter()).encode())
    return code


def litter(folder: Path) -> list[str]:
    """Temporaries that are still there."""
    hidden = [path for path in folder.rglob(".*") if path.name.startswith((".twofold", ".s.npz"))]
    # PyTorch's compiler keeps a cache of its own there.
    ours = [path for path in (folder / "tmp").iterdir() if not path.name.startswith("torchinductor")]
    return [str(path.relative_to(folder)) for path in (*hidden, *ours)]


def contents(folder: Path) -> dict[str, bytes]:
    """What is in `out`, hidden files aside; of dated files only that they are whole."""
    out = folder / "out"
    return {
        path.relative_to(out).as_posix(): _whole(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(".twofold")
    }


def _whole(path: Path) -> bytes:
    content = path.read_bytes()
    if not path.name.endswith(_DATED):
        return content
    if path.suffix == ".resume":
        return content[:2]
    return content.rstrip()[-7:]  # the end of the page, or of the JSON
