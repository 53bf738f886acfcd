"""The same network by other tools, side by side, at one ratio of MACs: HED or CRAFT, which find
edges or words, both on VGG-16, the latter's with BatchNorm.

Every tool works in an environment and a process of its own, on the same module, and writes ONNX. The files
are opened alike: MACs by the convolutions in the graph, the error of the outputs (of logits, where a sigmoid
ends the net) on crops of photographs that no tool has seen, ||out - ref|| / ||ref - mean(ref)||, and the time
in ONNX Runtime beside the original. What does not install or does not finish is a row that says so. Takes an
hour on two cores, most of it AIMET's search and CP.

    python -m benchmarks.peers [--net hed|craft] [--only NAME ...] [--folder FOLDER]

What a tool made is kept in a folder that is named, and only measured again by the next run with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn
from zoo.craft import craft
from zoo.models import model
from zoo.onnx_models import ONNX_FILES
from zoo.packages import cache_root
from zoo.photographs import ImageSource, photographs
from zoo.words import pages

import twofold
from benchmarks.calibrated import HELD_OUT, inputs_of
from benchmarks.formats import Hed
from twofold.conv import ConvLayer
from twofold.latency.choose import here

ROOT = Path(__file__).resolve().parent.parent
MACS, SIDE, CROPS, THREADS = 0.393, 320, 66, 2
#: Rounds of alternating least squares that tensorly makes of CP.
ROUNDS = 10


@dataclass(frozen=True)
class Peer:
    """One row.

    Attributes:
        label: in words.
        packages: that are installed beside twofold's; none: this environment.
        method: changes the module, or gives a smaller one, from a folder with the inputs.
    """

    label: str
    packages: tuple[str, ...]
    method: Callable[[nn.Module, Path], nn.Module]


# ---- what runs in the environment of a tool


def convolutions(net: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """The layers that tools are asked to decompose: 3x3, but for the first."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.in_channels > 3:
            yield name, module


def ratio_of_layers(net: nn.Module) -> float:
    """What the layers above may keep of their MACs so that the whole network keeps `MACS`."""
    costs = macs(net)
    own = sum(costs[name] for name, _ in convolutions(net))
    rest = sum(costs.values()) - own
    return (MACS * (own + rest) - rest) / own


def macs(net: nn.Module) -> dict[str, int]:
    """MACs of every convolution, for one image."""
    found: dict[str, int] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def count(module: nn.Module, _: Any, output: torch.Tensor) -> None:
            assert isinstance(module, nn.Conv2d)
            found[name] = module.weight.numel() * output[0, 0].numel()

        return count

    modules = [(name, one) for name, one in net.named_modules() if isinstance(one, nn.Conv2d)]
    hooks = [one.register_forward_hook(hook(name)) for name, one in modules]
    with torch.no_grad():
        net(torch.zeros(1, 3, SIDE, SIDE))
    for one in hooks:
        one.remove()
    return found


def calibrated(net: nn.Module, folder: Path, **options: Any) -> nn.Module:
    """By twofold, on the crops."""
    data = np.load(folder / "calibration.npy")
    result = twofold.decompose(net, data=data, **options)
    module: nn.Module = result.model.module
    return module


def equal_energy(net: nn.Module, folder: Path) -> nn.Module:
    """By twofold's data-aware scheme `channel`, one energy in every layer, as BALF has it."""
    low, high = 0.5, 1.0
    found: nn.Module | None = None
    options = {"statistics": folder / "energy.npz", "schemes": "channel", "multiple": 1}
    for _ in range(10):
        energy = (low + high) / 2
        smaller = calibrated(net, folder, energy=energy, **options)
        if sum(macs(smaller).values()) <= MACS * sum(macs(net).values()):
            low, found = energy, smaller
        else:
            high = energy
    if found is None:
        raise RuntimeError(f"no energy keeps {MACS} of the MACs")
    return found


def aimet(net: nn.Module, folder: Path, *, greedy: bool) -> nn.Module:
    """By AIMET's spatial SVD: one ratio for all layers, or its greedy search with the error on crops."""
    library = named_operators()
    from aimet_torch.common.defs import CompressionScheme, CostMetric, GreedySelectionParameters  # noqa: PLC0415 - in the tool's environment alone
    from aimet_torch.compress import ModelCompressor  # noqa: PLC0415 - in the tool's environment alone
    from aimet_torch.defs import ModuleCompRatioPair, SpatialSvdParameters  # noqa: PLC0415 - in the tool's environment alone

    crops = torch.from_numpy(np.load(folder / "calibration.npy")[:4])
    with torch.no_grad():
        wanted = net(crops)

    def score(candidate: nn.Module, *_: Any, **__: Any) -> float:
        with torch.no_grad():
            return -float((candidate(crops) - wanted).square().sum())

    layers = dict(convolutions(net))
    if greedy:
        ignored = [one for one in net.modules() if isinstance(one, nn.Conv2d) and one not in layers.values()]
        search = GreedySelectionParameters(target_comp_ratio=Decimal(str(MACS)), num_comp_ratio_candidates=10)
        mode, how = (
            SpatialSvdParameters.Mode.auto,
            SpatialSvdParameters.AutoModeParams(search, modules_to_ignore=ignored),
        )
    else:
        kept = Decimal(f"{ratio_of_layers(net):.4f}")
        pairs = [ModuleCompRatioPair(one, kept) for one in layers.values()]
        mode, how = SpatialSvdParameters.Mode.manual, SpatialSvdParameters.ManualModeParams(pairs)
    smaller, _ = ModelCompressor.compress_model(
        net, score, 1, (1, 3, SIDE, SIDE), CompressionScheme.spatial_svd, CostMetric.mac,
        SpatialSvdParameters(mode, how),
    )  # fmt: skip
    del library
    module: nn.Module = smaller
    return module


def named_operators() -> torch.library.Library:
    """Names of torchvision's operators, which its import asks for and no network here uses.

    AIMET imports torchvision, whose wheel is built for CUDA: its operators are missing beside a torch for
    CPUs. They are known while what is returned lives.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms") if torch.version.cuda is None else ():
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def tensorly(net: nn.Module, _: Path, *, factorization: str) -> nn.Module:
    """By tensorly-torch, layer by layer at one ratio, from the weights."""
    import tltorch  # noqa: PLC0415 - in the tool's environment alone

    ratio = ratio_of_layers(net)
    for name, layer in list(convolutions(net)):
        rank: int | float = ratio
        if factorization == "cp":
            rank = max(1, int(ratio * layer.weight.numel() / (layer.out_channels + layer.in_channels + 6)))
        options = {"n_iter_max": ROUNDS} if factorization == "cp" else {}
        factored = tltorch.FactorizedConv.from_conv(
            layer, rank=rank, factorization=factorization, implementation="factorized",
            decomposition_kwargs=options, fixed_rank_modes="spatial" if factorization == "tucker" else None,
        )  # fmt: skip
        net.register_module(name, factored)
    return net


AIMET, TENSORLY = ("aimet-torch==2.42.0",), ("tensorly-torch==0.5.0", "tensorly==0.9.0", "opt-einsum")
PEERS: Mapping[str, Peer] = {
    "twofold": Peer("twofold, 66 crops", (), lambda net, folder: calibrated(net, folder, macs=MACS)),
    "energy": Peer("`channel`, one energy for all layers (as BALF)", (), equal_energy),
    "aimet": Peer("AIMET 2.42 spatial SVD, one ratio", AIMET, lambda net, f: aimet(net, f, greedy=False)),
    "aimet-greedy": Peer("AIMET 2.42, greedy", AIMET, lambda net, f: aimet(net, f, greedy=True)),
    "cp": Peer("tensorly-torch CP, 10 rounds", TENSORLY, lambda net, f: tensorly(net, f, factorization="cp")),
    "tucker": Peer(
        "tensorly-torch Tucker", TENSORLY, lambda net, f: tensorly(net, f, factorization="tucker")
    ),
}


@dataclass(frozen=True)
class Net:
    """A network that the tools are given.

    Attributes:
        make: the module.
        inputs: from images, a count and a seed: (N, 3, SIDE, SIDE).
        ending: the last operator of its graph, whatever a tool makes of it.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[Mapping[str, ImageSource], int, int], NDArray[np.float32]]
    ending: str


def hed() -> nn.Module:
    """HED as a module."""
    real = model("hed")
    layers = twofold.load(real.prototxt, real.caffemodel).convolutions()
    return Hed(
        {
            one.name: one
            for one in layers
            if isinstance(one, ConvLayer) and one.geometry.layer_type == "convolution"
        }
    ).eval()


def craft_inputs(images: Mapping[str, ImageSource], count: int, seed: int) -> NDArray[np.float32]:
    """Words drawn on crops, as CRAFT takes them."""
    file = ONNX_FILES["craft"]
    return np.concatenate([file.normalized(page.image) for page in pages(images, count, SIDE, seed)])


NETS = {
    "hed": Net(
        hed, lambda images, count, seed: inputs_of(model("hed"), dict(images), count, seed), "Sigmoid"
    ),
    "craft": Net(craft, craft_inputs, "Conv"),
}


def export(net: nn.Module, path: Path) -> None:
    """Write a module as ONNX."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no other package is called old
        torch.onnx.export(
            net.eval(), (torch.zeros(1, 3, SIDE, SIDE),), str(path), dynamo=False, input_names=["data"]
        )


# ---- what measures


def python_of(peer: Peer) -> Path:
    """The interpreter of a tool's environment, made where it is missing.

    Raises:
        RuntimeError: it cannot be installed.
    """
    if not peer.packages:
        return Path(sys.executable)
    folder = cache_root() / "peers" / peer.packages[0]
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        venv.create(folder, with_pip=True, clear=True, upgrade_deps=True)  # --group is new
        wanted = [f"{ROOT}[all]", "--group", f"{ROOT / 'pyproject.toml'}:test", *peer.packages]
        argv = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", *wanted]
        done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"does not install: {_last(done.stderr)}")
        (folder / "done").touch()
    return python


def work(name: str, peer: Peer, net: str, folder: Path) -> tuple[float, float]:
    """Run a tool; gives seconds of CPU and peak memory in bytes.

    Raises:
        RuntimeError: it does not finish.
    """
    made, record = folder / f"{name}.onnx", folder / f"{name}.json"
    if made.exists() and record.exists():
        seconds, memory = json.loads(record.read_text())
        return seconds, memory
    argv = [str(python_of(peer)), "-m", "benchmarks.peers", "--inside", name, "--net", net]
    argv += ["--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    log = folder / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(argv, env=environment, cwd=folder, stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"does not finish: {_last(log.read_text())}")
    found = usage.ru_utime + usage.ru_stime, 1024.0 * usage.ru_maxrss
    record.write_text(json.dumps(found))
    return found


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def logits(path: Path, batch: NDArray[np.float32], ending: str) -> NDArray[np.float32]:
    """The output, or what goes into its sigmoid."""
    proto = onnx.load(path)
    (last,) = (node for node in proto.graph.node if proto.graph.output[0].name in node.output)
    if last.op_type != ending:
        raise RuntimeError(f"{path}: ends with {last.op_type}")
    if ending == "Sigmoid":
        proto.graph.output[0].name = last.input[0]
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"data": one[None]})[0] for one in batch])


def cost(path: Path) -> int:
    """MACs of all convolutions of a file."""
    layers = twofold.load(path).convolutions()
    return sum(one.macs or 0 for one in layers)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if another tool loses less."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=PEERS, help="only these rows")
    parser.add_argument("--net", choices=NETS, default="hed", help="the network")
    parser.add_argument("--inside", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where files are kept, of one network")
    given = parser.parse_args(argv)
    net = NETS[given.net]
    if given.inside:
        smaller = PEERS[given.inside].method(net.make(), given.folder)
        export(smaller, given.folder / f"{given.inside}.onnx")
        return 0
    table = Table(
        "tool", "MACs", "error", "CPU seconds", "peak GB", "time in ONNX Runtime",
        title=f"{given.net}, {MACS}",
    )  # fmt: skip
    errors: dict[str, float] = {}
    with ExitStack() as places:
        folder = (given.folder or Path(places.enter_context(tempfile.TemporaryDirectory()))).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        before = folder / "original.onnx"
        np.save(folder / "calibration.npy", net.inputs(photographs().calibration, CROPS, 0))
        unseen = net.inputs(photographs().holdout, HELD_OUT, 1)
        export(net.make(), before)
        ref = logits(before, unseen, net.ending)
        timer = here("onnxruntime", THREADS)
        for name in given.only or PEERS:
            try:
                seconds, memory = work(name, PEERS[name], given.net, folder)
            except RuntimeError as error:
                table.add_row(PEERS[name].label, str(error))
                continue
            path = folder / f"{name}.onnx"
            out = logits(path, unseen, net.ending)
            errors[name] = float(np.linalg.norm(out - ref) / np.linalg.norm(ref - ref.mean()))
            pair = timer.pair(twofold.load(before), twofold.load(path))
            table.add_row(
                PEERS[name].label, f"{cost(path) / cost(before):.3f}", f"{errors[name]:.4f}",
                f"{seconds:.0f}", f"{memory / 1e9:.1f}", f"{pair.ratio.median:.2f}",
            )  # fmt: skip
    Console(width=160).print(table)
    return int("twofold" in errors and errors["twofold"] > min(errors.values()))


if __name__ == "__main__":
    sys.exit(main())
