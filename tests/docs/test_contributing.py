"""The examples of CONTRIBUTING.md run."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import twofold
from twofold.backends import base
from twofold.conv import ConvGeometry, ConvLayer
from twofold.lowrank import composed, energy_error, schemes

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def example(word: str) -> str:
    (found,) = [block for block in re.findall("```python\\n(.*?)```", TEXT, re.DOTALL) if word in block]
    return found


@pytest.mark.parametrize("groups", [1, 2])
def test_the_example_scheme_is_a_scheme(monkeypatch, groups):
    monkeypatch.setattr(schemes.SCHEMES, "_entries", dict(schemes.SCHEMES))
    exec(example("class Chosen"), {})
    geometry = ConvGeometry.of(8, 6, (3, 2), groups=groups)
    weight = np.random.default_rng(0).normal(size=geometry.weight_shape)
    layer = ConvLayer("layer", geometry, weight)
    found = schemes.scheme("chosen").factorize(layer, "")
    (full,) = found.max_ranks
    for rank in range(1, full + 1):
        stack = found.factors((rank,))
        assert stack.chain == schemes.scheme("chosen").chain(geometry, "", (rank,))
        assert found.energy_error((rank,)) == pytest.approx(energy_error(layer, stack), abs=1e-12)
    np.testing.assert_allclose(composed(stack), weight, atol=1e-12)


def test_the_example_kind_is_decomposed(monkeypatch):
    torch = pytest.importorskip("torch")
    from twofold.formats.torch.layer_types.base import registry

    monkeypatch.setattr(registry, "_entries", dict(registry))
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(example("class Projections"), names)
    exec(example("full.plan.choices"), names)  # which checks that full rank changes nothing
    net, x = names["net"], names["x"]
    result = twofold.decompose(net, data=x, ranks={"*": 4}, schemes="channel")
    assert [type(one).__name__ for one in result.model.module.modules()].count("Linear") == 4
    with torch.no_grad():
        truth, found = (module(x) for module in (net, result.model.module))
    assert 0 < (found - truth).norm() / truth.norm() < 0.9


def test_the_example_format_is_a_format(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_backends", dict(base._backends))
    module = ModuleType("chain")
    monkeypatch.setitem(sys.modules, "chain", module)  # where dataclasses look up annotations
    exec(example("class Chain"), vars(module))
    rng = np.random.default_rng(0)
    weights = {"one": rng.normal(size=(32, 16, 3, 3)), "two": rng.normal(size=(32, 32, 3, 3))}
    np.savez(tmp_path / "net.npz", **weights)
    model = twofold.load(tmp_path / "net.npz")
    result = twofold.decompose(model, macs=0.5, no_data=True, schemes=("spatial", "tucker2"))
    assert result.plan.totals.macs_ratio <= 0.5
    full = twofold.decompose(model, ranks={"*": "full"}, no_data=True)
    for name, stack in full.factors.items():
        np.testing.assert_allclose(composed(stack), weights[name], atol=1e-12)
    path, plan = result.save(tmp_path / "out")
    assert [layer.name for layer in twofold.load(path).convolutions()] == [
        name for choice in result.plan.choices for name in choice.becomes
    ]
    with pytest.raises(twofold.TwofoldError, match="exist"):
        full.save(tmp_path / "out")
    again = twofold.apply_plan(twofold.Plan.load(plan), model).save(tmp_path / "again")
    assert [one.read_bytes() for one in again[1:]] == [plan.read_bytes()]
    whatever_else_there_is_to_do(model, tmp_path)


def whatever_else_there_is_to_do(model, folder) -> None:
    """Calibrated, compared, timed, recovered and quantized: all by its one entry."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    x = np.random.default_rng(1).normal(size=(8, 16, 16, 16)).astype(np.float32)
    result = twofold.decompose(model, macs=0.5, data=x)
    assert 0 < result.plan.measured_error < 1
    again = twofold.load(result.save(folder / "fitted")[0])
    compared = twofold.compare(model, again, data=x, threads=1)
    assert 0 < compared.outputs[0].error < 1
    assert "ONNX Runtime" in " ".join(one.runtime for one in compared.times)
    options = twofold.RecoverOptions(steps=4, batch=2)
    recovery = twofold.recover(model, result, options=options, data=x)
    assert type(recovery.model) is type(model)
    assert recovery.after < recovery.before
    quantized = twofold.quantize(model, folder / "int8.onnx", data=x)
    assert quantized.path.exists()


def test_the_example_operator_computes_what_onnx_says(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    from tests.formats.onnx.small import image, model, run, write

    from twofold.onnx_torch import OnnxNet, registry

    others = {op: one for op, one in registry.BUILDERS.items() if op != "ThresholdedRelu"}
    monkeypatch.setattr(registry.BUILDERS, "_entries", others)
    exec(example("ThresholdedRelu"), {**vars(registry), "torch": torch})
    node = onnx.helper.make_node("ThresholdedRelu", ["x"], ["y"], "n", alpha=0.5)
    made = model([node], {}, {"x": (2, 3)}, {"y": None})
    x = image(2, 3)
    (wanted,) = run(write(tmp_path / "net.onnx", made), x=x)
    found = OnnxNet(made, ("y",))({"x": torch.from_numpy(x)})
    np.testing.assert_array_equal(found["y"], wanted)
