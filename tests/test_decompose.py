"""The public calls: load, decompose, apply, and the reference's own."""

from __future__ import annotations

import inspect
import re
import runpy
import sys
from dataclasses import replace
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.small import HEAD, NET, TRAIN_VAL, assert_close, conv, image, opencv, random_blobs, write

import twofold
from twofold.cli import main
from twofold.conv import FactorConv, Factors
from twofold.decomposition.apply import apply_plan
from twofold.decomposition.decompose import decompose
from twofold.decomposition.factorize import Factored
from twofold.errors import OptionError, OutputError, PlanError, TwofoldError
from twofold.lowrank import energy_error

COMPAT = Path(__file__).parents[1] / "compat" / "src"


@pytest.fixture
def files(tmp_path):
    return write(tmp_path)


@pytest.fixture
def model(files):
    return twofold.load(*files)


def test_the_example_of_the_readme(files, model, tmp_path):
    result = decompose(model, macs=0.4)
    out = tmp_path / "out"
    result.model.save(out / "net.prototxt", out / "net.caffemodel")
    assert "all convolutions" in str(result.plan)
    assert result.plan.totals.macs_ratio <= 0.4
    assert opencv(out / "net.prototxt", out / "net.caffemodel", image())[0].shape == (1, 5, 12, 12)


@pytest.mark.parametrize("scheme", ["spatial", "depthwise"])
def test_predicted_errors_are_those_of_what_was_written(files, model, tmp_path, scheme):
    """The error in the plan, measured again from the files alone."""
    result = decompose(model, macs=0.5, no_data=True, schemes=scheme)
    assert result.plan.choices
    paths = result.save(tmp_path / "out")
    new = {layer.name: layer for layer in twofold.load(*paths[:2]).convolutions()}
    before = {layer.name: layer for layer in model.convolutions()}
    for choice in result.plan.choices:
        original = before[choice.layer]
        convs = tuple(FactorConv(new[n].geometry, new[n].weight) for n in result.model.replaced[choice.layer])
        product = twofold.lowrank.composed(Factors(choice.scheme, choice.ranks, convs))
        relative = np.linalg.norm(original.weight - product) / np.linalg.norm(original.weight)
        assert relative == pytest.approx(choice.relative_error, rel=1e-5)
        assert energy_error(original, result.factors[choice.layer]) == pytest.approx(relative**2, rel=1e-5)


@pytest.mark.parametrize("schemes", [("spatial", "channel", "input", "tucker2"), ("depthwise",)])
def test_the_output_is_that_of_the_composed_weight(files, model, tmp_path, schemes):
    """A stack gives what the original gives with the product of the factors as its weight."""
    result = decompose(model, macs=0.5, schemes=schemes, multiple=4, no_data=True)
    paths = result.save(tmp_path / "out")
    blobs = random_blobs(NET)
    for choice in result.plan.choices:
        blobs[choice.layer][0] = twofold.lowrank.composed(result.factors[choice.layer]).astype(np.float32)
    (tmp_path / "composed").mkdir()
    expected = opencv(*write(tmp_path / "composed", NET, blobs), image())[0]
    assert_close(opencv(*paths[:2], image())[0], expected)
    assert np.abs(expected - opencv(*files, image())[0]).max() > 1e-2  # so the comparison means something


@pytest.mark.parametrize("energy", [0.9, 0.985])
def test_every_layer_keeps_its_energy_where_ranks_are_estimated_first(model, energy, monkeypatch):
    for name, evaluations in (("_DRAFT", 12), ("_WARM", 60), ("_ANEW", 45)):  # as users have it
        monkeypatch.setattr(f"twofold.lowrank.depthwise.{name}", evaluations)
    choices = decompose(model, energy=energy, schemes="depthwise", multiple=1, no_data=True).plan.choices
    assert choices
    for choice in choices:
        assert choice.relative_error**2 <= 1 - energy + 1e-12


def test_layers_are_fitted_to_the_end_once_and_shortly_before(model, monkeypatch):
    """What short fits at the ranks of a plan tell makes the next plan; the last one's ranks are fitted."""
    fitted, plans = [], []
    stacks, draft = Factored.stacks, Factored.draft

    def watched(self, choices):
        fitted.extend(choices)
        return stacks(self, choices)

    def drafted(self, choices):
        unknown = [one for one in choices if not self.of(one).knows(one.ranks)]
        plans.append(len(unknown))
        found = draft(self, choices)
        assert found is bool(unknown)
        assert all(self.of(one).knows(one.ranks) for one in choices)
        return found

    monkeypatch.setattr(Factored, "stacks", watched)
    monkeypatch.setattr(Factored, "draft", drafted)
    choices = decompose(model, macs=0.5, schemes="depthwise", multiple=1, no_data=True).plan.choices
    assert [(one.layer, one.ranks) for one in fitted] == [(one.layer, one.ranks) for one in choices]
    assert plans[0] > 0
    assert len(plans) <= 2


def test_without_a_budget_no_more_is_spent_than_the_reference_would(model):
    ours, theirs = decompose(model), decompose(model, rule="amct")
    assert ours.plan.totals.macs[1] <= theirs.plan.totals.macs[1]
    assert ours.plan.choices


@pytest.mark.parametrize(
    "ranks", [{"two": "all"}, {"two": 0}, {"two": -3}, {"two": ()}, {"two": (2, 0)}, {"two": 2.5}]
)
def test_ranks_that_are_none(model, ranks):
    with pytest.raises(OptionError, match="'two'"):
        decompose(model, ranks=ranks)


def test_two_budgets_are_refused(model):
    with pytest.raises(OptionError, match="macs and params"):
        decompose(model, macs=0.5, params=0.5)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_budgets_that_are_none(model, value):
    with pytest.raises(TwofoldError):
        decompose(model, macs=value)


def test_names_may_be_a_string_or_several(model):
    assert [c.layer for c in decompose(model, energy=0.5, only="two", no_data=True).plan.choices] == ["two"]
    several = decompose(model, energy=0.5, only=["t*", "one"], skip="two", multiple=1, no_data=True)
    assert [c.layer for c in several.plan.choices] == ["one"]


@pytest.mark.parametrize("scheme", ["spatial", "depthwise"])
def test_a_plan_is_applied_later_to_the_same_bytes(files, model, tmp_path, scheme):
    result = decompose(model, macs=0.5, no_data=True, schemes=scheme)
    first = result.save(tmp_path / "first")
    plan = twofold.Plan.load(first[2])
    again = apply_plan(plan, twofold.load(*files)).save(tmp_path / "second")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in first]


def test_large_layers_come_out_the_same_bytes_too(tmp_path):
    """They are factored by a block method, whose block depends on the largest rank that is asked for."""
    text = HEAD.replace("16", "704") + conv("one", "data").replace("64", "704")
    files = write(tmp_path, text)
    first = decompose(twofold.load(*files), macs=0.2, no_data=True).save(tmp_path / "first")
    (tmp_path / "twin.prototxt").write_text(text.replace("dim: 12", "dim: 20"))
    plan = twofold.Plan.load(first[2])
    second = apply_plan(plan, twofold.load(tmp_path / "twin.prototxt", files[1])).save(tmp_path / "second")
    assert first[1].read_bytes() == second[1].read_bytes()


def test_a_plan_made_for_one_net_does_not_fit_another(model, tmp_path):
    plan = decompose(model, macs=0.5, no_data=True).plan
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(PlanError, match="does not fit this model"):
        apply_plan(plan, twofold.load(*write(other, NET.replace('"two"', '"zwei"'))))


def test_the_twin_needs_no_input_sizes(model, tmp_path):
    result = decompose(model, macs=0.5, no_data=True)
    twin = tmp_path / "twin"
    twin.mkdir()
    train_val = twofold.load(*write(twin, TRAIN_VAL, random_blobs(NET)))
    applied = apply_plan(result.plan, train_val, result.model)
    assert [c.ranks for c in applied.plan.choices] == [c.ranks for c in result.plan.choices]
    assert applied.plan.macs_per == "output position"


def test_a_wrong_factor_is_never_saved(model, tmp_path):
    """The check before the commit compares with the plan, not with what was meant to be written."""
    result, other = (decompose(model, ranks={"two": rank}, only="two", no_data=True) for rank in (16, 32))
    with pytest.raises(OutputError, match="two: what was written has the shapes"):
        replace(result, model=other.model).save(tmp_path / "out")
    stack = result.factors["two"]
    convs = (replace(stack.convs[0], weight=stack.convs[0].weight * np.float32(1.05)), *stack.convs[1:])
    wrong = result.original.replace({"two": replace(stack, convs=convs)})
    with pytest.raises(OutputError, match="two: what was written loses"):
        replace(result, model=wrong).save(tmp_path / "out")
    with pytest.raises(OutputError, match="two: what was written lacks the layer"):
        result.check(result.original)
    assert not (tmp_path / "out").exists()


def test_the_model_itself_is_not_changed(model):
    before = model.definition.source
    decompose(model, macs=0.5, no_data=True)
    assert model.definition.source == before
    assert not model.replaced


def test_the_reference_call_writes_and_says_nothing_surprising(files, tmp_path, capsys):
    out = [str(tmp_path / "new.prototxt"), str(tmp_path / "new.caffemodel")]
    for path in out:
        Path(path).write_bytes(b"old")
    returned = twofold.auto_decomposition(
        model_file=files[0], weights_file=files[1], new_model_file=out[0], new_weights_file=out[1]
    )
    assert returned is None
    printed, err = capsys.readouterr()
    assert err == ""
    assert "all convolutions" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "net.caffemodel", "net.prototxt", "new.caffemodel", "new.prototxt",
    ]  # fmt: skip
    assert len(twofold.load(*out).convolutions()) > 3
    assert list(inspect.signature(twofold.auto_decomposition).parameters) == [
        "model_file", "weights_file", "new_model_file", "new_weights_file",
    ]  # fmt: skip


def test_the_reference_call_never_overwrites_its_inputs(files, tmp_path):
    link = tmp_path / "link.prototxt"
    link.symlink_to(files[0])
    for new in (files[0], str(link), files[1]):
        with pytest.raises(OptionError, match="is an input"):
            twofold.auto_decomposition(*files, new, str(tmp_path / "new.caffemodel"))


def test_a_script_for_the_reference_runs_unchanged(files, tmp_path, monkeypatch, capsys):
    script = tmp_path / "script.py"
    script.write_text(
        "import amct_caffe\n"
        "from amct_caffe.tensor_decompose import auto_decomposition\n"
        f"auto_decomposition(model_file={files[0]!r}, weights_file={files[1]!r},\n"
        "    new_model_file='new.prototxt', new_weights_file='new.caffemodel')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(COMPAT)
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().err == ""
    assert re.search(r"two_0", (tmp_path / "new.prototxt").read_text())


def test_strange_names_survive(tmp_path):
    """Slashes, spaces, quotes, not UTF-8, and what a pattern would read as its own."""
    text = (
        HEAD
        + conv("conv/1 [a*]", "data")
        + conv('say \\"hi\\"', "conv/1 [a*]")
        + conv("caf\udce9", 'say \\"hi\\"')
    )
    model = twofold.load(*write(tmp_path, text))
    names = [layer.name for layer in model.convolutions()]
    assert names == ["conv/1 [a*]", 'say "hi"', "caf\udce9"]
    result = decompose(model, ranks=dict.fromkeys(names, 16), no_data=True)
    paths = result.save(tmp_path / "out")
    new = [layer.name for layer in twofold.load(*paths[:2]).convolutions()]
    # The last one gives the output, and keeps its name.
    assert new == [*(f"{name}_{i}" for name in names[:2] for i in (0, 1)), "caf\udce9_0", "caf\udce9"]
    assert b"caf\xe9_0" in paths[0].read_bytes()
    assert [choice.layer for choice in twofold.Plan.load(paths[2]).choices] == names


def test_a_layer_without_name_is_left_alone(tmp_path):
    text = HEAD + conv("", "data").replace('top: ""', 'top: "x"').replace('  name: ""\n', "")
    blobs = {"": random_blobs(HEAD + conv("a", "data"))["a"]}
    (skipped,) = twofold.load(*write(tmp_path, text, blobs)).convolutions()
    assert isinstance(skipped, twofold.Skipped)
    assert "has no name" in skipped.reason


def test_an_output_that_cannot_show_a_name_is_no_error(tmp_path, monkeypatch):
    files = write(tmp_path, HEAD + conv("caf\udce9\u4e2d", "data"))
    monkeypatch.chdir(tmp_path)
    for call, returned in (
        (lambda: twofold.auto_decomposition(*files, "new.prototxt", "new.caffemodel"), None),
        (lambda: main(["inspect", *files]), 0),
    ):
        stdout = TextIOWrapper(BytesIO(), encoding="latin-1")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            assert call() == returned
        stdout.flush()
        assert b"caf\\udce9\\u4e2d" in stdout.buffer.getvalue()


@pytest.mark.parametrize("scheme", ["spatial", "channel", "input", "tucker2"])
def test_grouped_layers_at_full_rank_give_the_same_output(tmp_path, scheme):
    (tmp_path / "in").mkdir()
    text = HEAD + conv("one", "data").replace("kernel_size: 3", "kernel_size: 3\n    group: 4")
    files = write(tmp_path / "in", text)
    result = decompose(twofold.load(*files), ranks={"one": "full"}, schemes=scheme, no_data=True)
    paths = result.save(tmp_path / "out")
    count = len(result.factors["one"].convs)
    assert paths[0].read_text().count("group: 4") == count
    assert_close(opencv(*paths[:2], image())[0], opencv(*files, image())[0])


@pytest.mark.parametrize(("growth", "bits", "holds"), [
    (0.5e-6, 24, True), (2e-6, 24, False), (2e-6, 11, True), (6e-6, 11, False),
])  # fmt: skip
def test_what_was_written_may_differ_by_the_rounding_of_its_encoding(model, growth, bits, holds):
    """Weights that lose so much more of the energy than planned, in an encoding of so many bits."""
    result = decompose(model, ranks={"two": 16}, schemes="spatial", no_data=True)
    (choice,) = result.plan.choices
    # Of a projection scaled by 1 + t the error grows by t^2 times the energy that it keeps.
    scale = 1 + (growth / (1 - choice.relative_error**2)) ** 0.5
    last = result.model.replaced["two"][-1]
    layers = [
        replace(one, weight=one.weight * (scale if one.name == last else 1), bits=bits)
        for one in result.model.convolutions()
    ]
    written = SimpleNamespace(convolutions=lambda: layers)
    if holds:
        result.check(written)
    else:
        with pytest.raises(OutputError, match="more than rounding explains"):
            result.check(written)


def test_groups_say_what_their_fields_say(model):
    options = twofold.PlanOptions(budget=twofold.Budget("params", 0.6), multiple=4, only=("one", "two"))
    grouped = decompose(model, plan=options, fit=twofold.FitOptions(refine=0), no_data=True)
    plain = decompose(model, params=0.6, multiple=4, only=("one", "two"), refine=0, no_data=True)
    assert grouped.plan.choices
    assert grouped.plan == plain.plan
    # What stands beside a group replaces its field.
    wider = decompose(model, plan=options, only="two", no_data=True)
    assert {choice.layer for choice in wider.plan.choices} == {"two"}


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        (
            {"plan": twofold.PlanOptions(budget=twofold.Budget("macs", 0.5)), "params": 0.5},
            "MACs.* and params",
        ),
        ({"fit": twofold.FitOptions(), "refine": 1}, "refine: given beside fit"),
        (
            {"runtime": twofold.RuntimeOptions("onnxruntime"), "threads": 1, "speedup": 2.0},
            "threads: .*runtime",
        ),
    ],
)
def test_what_is_said_twice_is_rejected(model, keywords, named):
    with pytest.raises(OptionError, match=named):
        decompose(model, **keywords)


def test_a_keyword_that_is_none_is_named(model):
    with pytest.raises(TypeError, match="'target'; did you mean 'targets'"):
        decompose(model, target="prob")
