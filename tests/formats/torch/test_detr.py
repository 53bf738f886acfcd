"""A detector with a transformer behind its convolutions, as DETR: counted, decomposed and measured."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import twofold  # noqa: E402

WIDTH, HEADS, QUERIES, CLASSES = 32, 4, 7, 5


class Attention(nn.Module):
    """Of queries on a memory, from linear layers alone; keys and queries know their places, values do not."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, query, key, value):
        def split(x):
            return x.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)

        seen = functional.scaled_dot_product_attention(
            split(self.q(query)), split(self.k(key)), split(self.v(value))
        )
        return self.out(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention to itself, in a decoder to the memory too, and a pair of linear layers."""

    def __init__(self, decoder: bool) -> None:
        super().__init__()
        self.own = Attention()
        self.cross = Attention() if decoder else None
        self.wide, self.narrow = nn.Linear(WIDTH, 96), nn.Linear(96, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(self, x, place, memory=None, memory_place=None):
        x = self.norms[0](x + self.own(x + place, x + place, x))
        if self.cross is not None:
            x = self.norms[1](x + self.cross(x + place, memory + memory_place, memory))
        return self.norms[2](x + self.narrow(self.wide(x).relu()))


class Transformer(nn.Module):
    """Written out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Block(False), nn.ModuleList([Block(True), Block(True)])

    def forward(self, memory, place, queries):
        memory = self.encoder(memory, place)
        found = torch.zeros_like(queries)
        for block in self.decoder:
            found = block(found, queries, memory, place)
        return found


class Fused(nn.Module):
    """PyTorch's own, whose projections are parameters that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Transformer(WIDTH, HEADS, 1, 2, 96, dropout=0.0, batch_first=True)

    def forward(self, memory, place, queries):
        return self.both(memory + place, queries)


class Detr(nn.Module):
    """A backbone, its map as tokens, a transformer, and heads of which training alone calls one."""

    def __init__(self, transformer: type[nn.Module]) -> None:
        super().__init__()
        self.backbone = nn.Sequential()
        for c_in, c_out in ((3, 32), (32, 64), (64, 64)):
            conv = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False)
            self.backbone.extend([conv, nn.BatchNorm2d(c_out), nn.ReLU()])
        self.project = nn.Conv2d(64, WIDTH, 1)
        self.transformer = transformer()
        self.queries = nn.Embedding(QUERIES, WIDTH)
        self.place = nn.Parameter(torch.randn(1, 16, WIDTH))
        self.classes = nn.Linear(WIDTH, CLASSES + 1)
        self.box = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 4))
        self.aux = nn.Linear(WIDTH, 400)

    def forward(self, x):
        tokens = self.project(self.backbone(x)).flatten(2).transpose(1, 2)
        queries = self.queries.weight.expand(len(x), -1, -1)
        found = self.transformer(tokens, self.place.expand(len(x), -1, -1), queries)
        result = {"logits": self.classes(found), "boxes": self.box(found).sigmoid()}
        return {**result, "aux": self.aux(found)} if self.training else result


def make(transformer: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    module = Detr(transformer)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # statistics are the mean of all batches, of which one is enough
    with torch.no_grad():
        module(images(64))
    return module.eval()


def images(count: int, seed: int | None = None) -> torch.Tensor:
    """Smooth, as images are."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return functional.interpolate(torch.randn(count, 3, 8, 8, generator=generator), (32, 32), mode="bicubic")


def counted(module: nn.Module, x: torch.Tensor) -> int:
    """MACs of products with weights, by torch's counter; its fused path counts nothing.

    Linear layers may be batched products where nothing wants gradients; attention is an operation of its own.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            deepcopy(module).requires_grad_(False)(x)  # its hooks stumble over parameters as inputs
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    found, aten = counter.get_flop_counts()["Global"], torch.ops.aten
    return sum(found.get(one, 0) for one in (aten.convolution, aten.mm, aten.addmm, aten.bmm)) // 2


def error(first: nn.Module, second: nn.Module, x: torch.Tensor) -> float:
    """The root of the mean over outputs of squared relative errors."""
    with torch.no_grad():
        pairs = [(first(x)[name].numpy(), second(x)[name].numpy()) for name in ("logits", "boxes")]
    return float(np.sqrt(np.mean([((b - a) ** 2).sum() / ((a - a.mean()) ** 2).sum() for a, b in pairs])))


@pytest.mark.slow
@pytest.mark.parametrize("transformer", [Transformer, Fused])
def test_a_detr_costs_and_loses_what_its_plan_says(transformer):
    module, x = make(transformer), images(2)
    result = twofold.decompose(
        module,
        macs=0.6,
        multiple=4,
        data=images(64, 1),
        example_inputs=x,
        refine=0,
        schemes=("spatial", "channel"),
    )
    before, after = result.plan.totals.macs
    assert result.plan.macs_per == "image"
    assert (2 * before, 2 * after) == (counted(module, x), counted(result.model.module, x))
    assert after <= 0.6 * before
    skipped = {one.name: one for one in result.plan.skipped}
    assert skipped["aux"].macs == 0
    assert "never called" in skipped["aux"].reason
    true = error(module, result.model.module, images(64, 2))
    assert result.plan.measured_error == pytest.approx(true, rel=0.5)
