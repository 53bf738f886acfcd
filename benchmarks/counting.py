"""Whether MACs are MACs: plans of public networks beside an independent count, before and after.

Needs timm and torchvision in the environment (`pip install timm torchvision`). All networks have random
weights: what is counted does not depend on them. The count is that of `torch.utils.flop_counter` over
convolutions and matrix products with weights; products of activations, as in attention, are in neither.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import twofold
from twofold.errors import PlanError, TwofoldError

#: The budget, and what the ratio by the count may be at most.
BUDGET, LIMIT = 0.6, 0.603
#: How far a plan's MACs may be from the count.
TOLERANCE = 1e-3
#: timm's, one of each family, and the side of their input.
TIMM = {
    "resnet18": 64, "resnet26d": 64, "resnetv2_18": 64, "resnext26ts": 64, "seresnet18": 64, "vgg11_bn": 64,
    "densenet121": 64, "dla34": 64, "regnetx_002": 64, "regnety_002": 64, "mobilenetv2_050": 64,
    "mobilenetv3_small_050": 64, "efficientnet_b0": 64, "tf_efficientnet_b0": 64, "efficientnet_cc_b0_4e": 64,
    "mixnet_s": 64, "mnasnet_small": 64, "fbnetc_100": 64, "ghostnet_100": 64, "hardcorenas_a": 64,
    "inception_v3": 96, "inception_v4": 96, "xception41": 64, "hrnet_w18_small": 64, "res2net50_26w_4s": 64,
    "skresnet18": 64, "resnest14d": 64, "cspresnet50": 64, "cspdarknet53": 64, "darknet53": 64,
    "repvgg_a0": 64, "nf_regnet_b0": 64, "nfnet_f0": 64, "convnext_atto": 64, "convmixer_768_32": 64,
    "vit_tiny_patch16_224": 224, "deit_tiny_patch16_224": 224, "swin_tiny_patch4_window7_224": 224,
    "mixer_s32_224": 224, "tnt_s_legacy_patch16_224": 224, "mvitv2_tiny": 224, "levit_128s": 224,
    "mobilevit_xxs": 64, "edgenext_xx_small": 64, "poolformer_s12": 64, "cait_xxs24_224": 224,
    "xcit_nano_12_p16_224": 224, "coat_lite_tiny": 224, "pvt_v2_b0": 64, "gernet_s": 64, "selecsls42b": 64,
    "tinynet_e": 64, "lcnet_050": 64, "hgnet_tiny": 64, "fasternet_t0": 64, "starnet_s1": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What became of one network.

    Attributes:
        name: of the network.
        counted: MACs per image by the independent count, before and after; None where none was made.
        planned: those of the plan.
        note: why there is no result, or what is wrong.
    """

    name: str
    counted: tuple[float, float] | None
    planned: tuple[int, int] | None
    note: str = ""

    @property
    def wrong(self) -> str:
        """What is wrong; "" for nothing."""
        if self.counted is None or self.planned is None:
            return ""
        off = max(abs(p / c - 1) for p, c in zip(self.planned, self.counted, strict=True))
        if off > TOLERANCE:
            return f"off by {off:.2%}"
        over = self.counted[1] / self.counted[0]
        return f"the ratio by the count is {over:.4f}" if over > LIMIT else ""


def count(module: nn.Module, arguments: tuple[Any, ...]) -> float:
    """MACs of a run, by torch's counter."""
    aten = torch.ops.aten
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # which counts nothing
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            module(*arguments)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    found = counter.get_flop_counts()["Global"]
    return sum(found.get(one, 0) for one in (aten.convolution, aten.mm, aten.addmm)) / 2


def row(name: str, make: Callable[[], tuple[nn.Module, tuple[Any, ...]]]) -> Row:
    """Decompose one network, and count."""
    torch.manual_seed(0)
    try:
        module, arguments = make()
    except Exception as error:  # a network that this version of its package does not have
        return Row(name, None, None, f"not made: {error}")
    module.eval()
    try:
        before = count(module, arguments)
    except AssertionError:  # the counter's own hooks want gradients that a class token does not have
        module.requires_grad_(False)
        before = count(module, arguments)
    how = {"no_data": True, "example_inputs": arguments, "refine": 0, "multiple": 4}
    try:
        result = twofold.decompose(module, macs=BUDGET, **how)
    except PlanError as error:  # still, what there is must be counted right
        full = twofold.decompose(module, energy=1.0, **how)
        found = Row(name, (before, 0.6 * before), (full.plan.totals.macs[0], round(0.6 * before)))
        return Row(name, None, None, found.wrong or f"rejected, counted right: {error}"[:90])
    except TwofoldError as error:
        return Row(name, None, None, f"rejected: {error}"[:90])
    return Row(name, (before, count(result.model.module, arguments)), result.plan.totals.macs)


def networks() -> Iterator[tuple[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]]]:
    """All networks by name, each with how it is made."""
    import timm  # noqa: PLC0415 - for this benchmark alone
    import torchvision.models as vision  # noqa: PLC0415 - the same

    for name, side in TIMM.items():
        yield name, lambda name=name, side=side: (timm.create_model(name), (torch.randn(1, 3, side, side),))
    for name in ("maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "keypointrcnn_resnet50_fpn"):
        yield (
            name,
            lambda name=name: (
                vision.get_model(name, weights=None, weights_backbone=None, min_size=96, max_size=128),
                ([torch.rand(3, 96, 96)],),
            ),
        )
    for name in ("fcn_resnet50", "lraspp_mobilenet_v3_large"):
        yield name, lambda name=name: (
            vision.get_model(name, weights=None, weights_backbone=None), (torch.randn(1, 3, 64, 64),)
        )  # fmt: skip
    flows = torch.rand(2, 1, 3, 128, 128)
    yield "raft_small", lambda: (vision.get_model("raft_small", weights=None), (flows[0], flows[1]))
    yield "googlenet", lambda: (
        vision.googlenet(weights=None, init_weights=False), (torch.randn(1, 3, 64, 64),)
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for every network; 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="networks; all without any")
    names = parser.parse_args(argv).names
    table = Table("network", "count", "plan", "ratio by count", "s", "")
    bad = right = rejected = 0
    for name, make in networks():
        if names and name not in names:
            continue
        start = time.perf_counter()
        found = row(name, make)
        cells = ["", "", ""]
        if found.counted is not None and found.planned is not None:
            cells = [
                f"{found.counted[0]:.5g}",
                f"{found.planned[0]:.5g}",
                f"{found.counted[1] / found.counted[0]:.4f}",
            ]
        table.add_row(name, *cells, f"{time.perf_counter() - start:.0f}", found.wrong or found.note)
        print(name, *cells, found.wrong or found.note, file=sys.stderr, flush=True)
        bad += bool(found.wrong or found.note.startswith(("off", "the ratio")))
        right += found.counted is not None and not found.wrong
        rejected += found.note.startswith("rejected")
    Console().print(table)
    print(f"right {right}, rejected with the reason {rejected}, wrong {bad}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
