"""Channel blocks of devices: names of multiples, and what layers cost in whole blocks."""

from __future__ import annotations

import pytest
from tests.small import write

import twofold
from twofold.cli import main
from twofold.conv import ConvGeometry, ConvLayer, Skipped
from twofold.errors import OptionError
from twofold.planning import Candidate, Plan, PlanOptions
from twofold.planning.devices import PRESETS, BlockCost, parse_multiple
from twofold.planning.workload import Workload


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(16, (16, None)), ("24", (24, None)), ("ascend-int8", (32, "ascend-int8")), (" None ", (1, "none"))],
)
def test_numbers_and_names(given, wanted):
    assert parse_multiple(given) == wanted


@pytest.mark.parametrize("given", ["", "0", "-4", "1.5", "tpu", 0, "²", "9" * 5000])
def test_others_are_refused_with_what_there_is(given):
    with pytest.raises(OptionError, match="one of none, tensor-cores, ascend-fp16, ascend-int8"):
        parse_multiple(given)


def layer(**options) -> ConvLayer:
    geometry = ConvGeometry.of(**{"c_out": 40, "c_in": 24, "kernel": (3, 3), "pad": 1, **options})
    return ConvLayer("conv", geometry, None, input_sizes=((10, 10),))


def test_channels_are_rounded_up_to_whole_blocks():
    cost = BlockCost(Workload(), 16)
    assert cost.of_layer(layer()) == 48 * 32 * 9 * 100
    # 24 -> 17 (as 32) by 3x3, 17 (as 32) -> 40 (as 48) by 1x1
    found = cost.of_candidate(layer(), Candidate("conv", "channel", "", (17,), 0, 0, 0.0))
    assert found == (32 * 32 * 9 + 32 * 48) * 100
    assert cost.of_layer(Skipped("other", "", None, 123, 4)) == 123


def test_without_blocks_it_is_the_number_of_macs():
    assert BlockCost(Workload(), 1).of_layer(layer()) == layer().macs


def test_each_group_is_rounded_by_itself():
    grouped = layer(c_out=64, c_in=32, groups=4)  # 8 -> 16 channels a group, as 16 -> 16
    assert BlockCost(Workload(), 16).of_layer(grouped) == 4 * 16 * 16 * 9 * 100


def spent(model, plan: Plan) -> float:
    """Share of the device's MACs that a plan leaves."""
    cost = BlockCost(Workload(), PRESETS["ascend-fp16"])
    layers = {one.name: one for one in model.convolutions() if isinstance(one, ConvLayer)}
    after = {name: cost.of_layer(one) for name, one in layers.items()}
    before = sum(after.values())
    for choice in plan.choices:
        one = Candidate(choice.layer, choice.scheme, choice.variant, choice.ranks, 0, 0, 0.0)
        after[choice.layer] = cost.of_candidate(layers[choice.layer], one)
    return sum(after.values()) / before


def test_a_plan_for_a_device_keeps_the_budget_in_its_own_macs(tmp_path):
    model = twofold.load(*write(tmp_path))
    result = twofold.decompose(model, macs=0.6, multiple="ascend-fp16", no_data=True)
    assert spent(model, result.plan) <= 0.6
    assert {rank % 16 for choice in result.plan.choices for rank in choice.ranks} == {0}
    assert Plan.from_json(result.plan.to_json()).options == result.plan.options


def test_without_a_budget_a_device_spends_no_larger_share_than_the_reference(tmp_path):
    model = twofold.load(*write(tmp_path))
    reference = twofold.decompose(model, rule="amct").plan.totals.macs_ratio
    plan = twofold.decompose(model, multiple="ascend-fp16", no_data=True).plan
    assert plan.choices
    assert spent(model, plan) <= min(reference, 1.0)


def test_command_line(tmp_path, capsys):
    argv = ["decompose", *write(tmp_path), "-o", str(tmp_path / "out"), "--no-data", "--macs", "0.6"]
    assert main([*argv, "--multiple", "tensor-cores"]) == 0
    options = Plan.load(tmp_path / "out/plan.json").options
    assert (options.multiple, options.device) == (8, "tensor-cores")
    assert main([*argv, "--multiple", "tpu", "--force"]) == 2
    assert "neither a number" in capsys.readouterr().err


def test_an_unknown_device_in_a_plan_is_refused():
    with pytest.raises(OptionError, match="none of none, tensor-cores"):
        PlanOptions(device="tpu")
