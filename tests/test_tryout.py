"""Every result is run once beside its original, or says why not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import twofold  # noqa: E402
from twofold.backends import base  # noqa: E402
from twofold.conv import FactorConv, Factors  # noqa: E402
from twofold.decomposition.tryout import tryout  # noqa: E402
from twofold.errors import ModelError, remedy  # noqa: E402
from twofold.formats.torch.model import TorchModel  # noqa: E402
from twofold.lowrank import SCHEMES  # noqa: E402


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)).eval()


def model() -> TorchModel:
    return TorchModel(net(), torch.randn(1, 3, 12, 12))


def stack(rank: int = 8, scale: float = 1.0) -> dict[str, Factors]:
    layer = model().convolutions()[1]
    found = SCHEMES["channel"].factorize(layer, "").factors((rank,))
    last = found.convs[-1]
    with np.errstate(over="ignore"):
        last = FactorConv(last.geometry, (last.weight * scale).astype(np.float32), last.bias)
    return {"2": replace(found, convs=(*found.convs[:-1], last))}


def test_a_result_that_runs_has_nothing_to_say():
    original = model()
    tried = tryout(original, original.replace(stack()))
    assert not tried.warnings(changed=True)
    assert tryout(original, original).warnings(changed=True) == (
        "the outputs are exactly those of the original on the input that both were tried on",
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (nn.Sequential(net()[0], nn.Conv2d(32, 32, 3)), "shape .1, 32, 10, 10., its original in .1, 32, 12"),
        (nn.Sequential(nn.Conv2d(4, 32, 3)), "does not run where its original does: Sequential does not run"),
    ],
    ids=["another shape", "no run"],
)  # fmt: skip
def test_what_does_not_run_as_its_original_is_an_error(wrong, said):
    original = model()
    with pytest.raises(ModelError, match=said):
        tryout(original, replace(original, module=wrong))


def test_values_that_are_not_finite_are_an_error():
    original = model()
    module = net()
    module[2].weight.data.fill_(float("inf"))
    with pytest.raises(ModelError, match="not finite, where the original's are"):
        tryout(original, replace(original, module=module))


@pytest.mark.parametrize(
    "how", [{"no_data": True}, {"data": torch.randn(4, 3, 12, 12)}], ids=["weights", "data"]
)
def test_every_decomposition_is_tried(how, monkeypatch):
    """The result is made wrong on its way; with and without data that does not pass."""
    replaced = TorchModel.replace

    def wrong(self, factors):
        found = replaced(self, factors)
        found.module[2][0].weight.data.fill_(float("nan"))
        return found

    monkeypatch.setattr(TorchModel, "replace", wrong)
    with pytest.raises(ModelError, match="not finite"):
        twofold.decompose(net(), macs=0.8, refine=0, **how)


def test_an_applied_plan_is_tried(monkeypatch):
    plan = twofold.decompose(net(), macs=0.8, no_data=True).plan
    assert not twofold.apply_plan(plan, net()).warnings
    lacking = base.Part("missing:make_runner", "PyTorch", "torch")
    monkeypatch.setitem(base._backends, "torch", replace(base._backends["torch"], runner=lacking))
    (said,) = twofold.apply_plan(plan, net()).warnings
    assert said.startswith("the result was not run beside its original: calibration needs PyTorch")


def test_its_reason_does_not_offer_what_was_done(monkeypatch):
    def without_size(*_: object) -> None:
        raise ModelError(f"no size is known{remedy(', or use weights only ({})', 'no_data=True')}")

    monkeypatch.setattr("twofold.decomposition.tryout.runner_for", without_size)
    assert tryout(model(), model()).reason == "no size is known"
