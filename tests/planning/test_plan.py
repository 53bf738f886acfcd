"""Plans as values: totals, JSON there and back, edits by hand, and checks against a model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.cases import make_layer, plan_for, small_net

from twofold.conv import ConvGeometry, Skipped
from twofold.errors import PlanError
from twofold.lowrank.schemes import SCHEMES, scheme
from twofold.planning import Budget, Choice, FixedRanks, MeasuredSensitivity, Plan, PlanOptions, candidates

NET = small_net()
OPTIONS = PlanOptions(Budget("macs", 0.6), multiple=4)
PLAN = plan_for(NET, OPTIONS)
MEASURED = plan_for(
    NET, OPTIONS, sources={"net.caffemodel": "ab" * 32},
    objective=MeasuredSensitivity.from_gains({"conv0": 1.0, "conv1": 2.0, "conv2": 0.5}),
)  # fmt: skip

CANDIDATE = candidates(NET[0], [scheme("spatial").factorize(NET[0], "hw")], PLAN.workload, 4)[0]
FIRST = Choice.of(NET[0], CANDIDATE, PLAN.workload)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
sizes = st.integers(1, 5)
errors = st.none() | st.floats(0, 1)
counts = st.tuples(st.integers(0, 10**15), st.integers(0, 10**15))


@st.composite
def geometries(draw):
    axes = draw(st.integers(1, 3))

    def each(values):
        return tuple(draw(st.lists(values, min_size=axes, max_size=axes)))

    return ConvGeometry(
        draw(sizes), draw(sizes), each(sizes), each(sizes),
        each(st.tuples(st.integers(0, 3), st.integers(0, 3))), each(sizes),
    )  # fmt: skip


@st.composite
def plans(draw):
    used = draw(st.lists(names, max_size=5, unique=True))
    choices, skipped = [], []
    for name in used:
        if draw(st.booleans()):
            kind = draw(st.sampled_from(sorted(SCHEMES)))
            ranks = tuple(draw(st.lists(sizes, min_size=1, max_size=2)))
            notes = tuple(draw(st.lists(names, max_size=2)))
            macs, params, error, output_error = (
                draw(adapter_of) for adapter_of in (counts, counts, errors, errors)
            )
            variant = draw(st.sampled_from(["", "hw", "wh"]))
            becomes = tuple(draw(st.lists(names, max_size=3)))
            choices.append(
                Choice(
                    name, draw(geometries()), kind, variant, ranks, macs, params, error, output_error, notes,
                    becomes,
                )
            )  # fmt: skip
        else:
            geometry = draw(st.none() | geometries())
            skipped.append(
                Skipped(name, draw(names), geometry, draw(st.integers(0, 99)), draw(st.integers(0, 99)))
            )
    options = draw(
        st.sampled_from(
            [
                PlanOptions(), OPTIONS, PlanOptions(Budget("energy", 0.9), schemes=("spatial", "tucker2")),
                PlanOptions(Budget("time", 3e6, absolute=True), only=("a*",), skip=("b",)),
                PlanOptions(rule="amct", ranks=(FixedRanks("a=b", (3, 4)), FixedRanks("c", None))),
            ]
        )
    )  # fmt: skip
    return Plan(
        tuple(choices), tuple(skipped), options, draw(st.sampled_from(["image", "output position"])),
        draw(st.dictionaries(names, names, max_size=3)), tuple(draw(st.lists(names, max_size=2))),
        draw(st.none() | st.dictionaries(names, st.integers() | names, max_size=3)), draw(errors), "1.2",
    )  # fmt: skip


@settings(max_examples=80)
@given(plans())
def test_json_there_and_back(plan):
    text = plan.to_json()
    again = Plan.from_json(text)
    assert again == plan
    assert again.to_json() == text
    assert str(again) == str(plan)


@pytest.mark.parametrize("plan", [PLAN, MEASURED])
def test_a_fresh_plan_fits_its_model_unchanged(plan):
    assert plan.choices
    assert plan.check(NET) == plan
    assert Plan.from_json(plan.to_json()).check(NET) == plan


def test_totals_are_over_all_convolutions():
    totals = PLAN.totals
    assert totals.macs[0] == sum(layer.macs for layer in NET)
    saved = sum(choice.macs[0] - choice.macs[1] for choice in PLAN.choices)
    assert totals.macs[0] - totals.macs[1] == saved > 0
    assert totals.macs_ratio == totals.macs[1] / totals.macs[0] <= 0.6
    assert Plan((), ()).totals.macs_ratio == 1


def test_predicted_errors_add_in_squares():
    assert MEASURED.predicted_error == pytest.approx(sum(c.output_error**2 for c in MEASURED.choices) ** 0.5)
    assert PLAN.predicted_error is None
    assert Plan((), ()).predicted_error == 0


def test_a_plan_keeps_how_it_was_made():
    document = json.loads(MEASURED.to_json())
    assert document["twofold_plan"] == 1
    assert document["sources"] == {"net.caffemodel": "ab" * 32}
    assert document["options"]["budget"] == {"metric": "macs", "value": 0.6, "absolute": False}
    assert document["totals"]["macs_ratio"] == MEASURED.totals.macs_ratio
    assert document["totals"]["predicted_output_error"] == MEASURED.predicted_error
    with pytest.raises(TypeError):
        MEASURED.sources["other"] = "x"


def test_saving_and_loading(tmp_path):
    path = tmp_path / "plan.json"
    PLAN.save(path)
    assert Plan.load(path) == PLAN
    MEASURED.save(path)
    assert Plan.load(str(path)) == MEASURED
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_files_that_are_no_plans(tmp_path):
    with pytest.raises(PlanError, match=r"none\.json: cannot read the plan: No such file"):
        Plan.load(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match=r"bytes\.json: is no plan: not UTF-8"):
        Plan.load(tmp_path / "bytes.json")
    (tmp_path / "cut.json").write_text(PLAN.to_json()[:-10])
    with pytest.raises(PlanError, match=r"cut\.json: is no plan: line [0-9]+, column"):
        Plan.load(tmp_path / "cut.json")
    with pytest.raises(PlanError, match=r"cannot write the plan: No such file"):
        PLAN.save(tmp_path / "no" / "plan.json")


def edited(change, plan: Plan = PLAN) -> str:
    document = json.loads(plan.to_json())
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(twofold_plan=2), "has layout 2; this twofold reads layout 1"),
        (lambda d: d.pop("twofold_plan"), "plan: key 'twofold_plan' is missing"),
        (lambda d: d.update(colour="red"), "plan: unknown key 'colour'; known: twofold_plan, .*choices"),
        (lambda d: d["choices"][0].update(rnaks=[3]), r"choices\[0\]: unknown key 'rnaks'; known: layer"),
        (lambda d: d["choices"][0].pop("ranks"), r"plan.choices\[0\]: key 'ranks' is missing"),
        (lambda d: d["choices"][0].update(ranks=16), r"choices\[0\].ranks: 16 is not a list"),
        (lambda d: d["choices"][0].update(ranks=[1.5]), r"choices\[0\].ranks\[0\]: 1.5 is not an integer"),
        (lambda d: d["choices"][0].update(ranks=[True]), r"choices\[0\].ranks\[0\]: true is not an integer"),
        (lambda d: d["choices"][0].update(layer=None), r"choices\[0\].layer: null is not a string"),
        (lambda d: d["choices"][0].update(macs=[1]), r"choices\[0\].macs: \[1\] is not a list of two"),
        (lambda d: d["choices"][0]["geometry"].update(stride=[1]), r"choices\[0\].geometry: kernel, stride"),
        (lambda d: d["choices"][0]["predicted"].update(relative_error=-1), "_error: -1 is not a number"),
        (lambda d: d["choices"].append(d["choices"][0]), "names each layer once; it names conv[0-9] twice"),
        (lambda d: d["options"].update(multiple=0), "plan.options: multiple: ranks are multiples of 1"),
        (lambda d: d["options"].update(schemes=["cp"]), "plan.options: there is no scheme 'cp'"),
        (lambda d: d["options"]["budget"].update(value=7), "plan.options.budget: macs: 7 is a ratio above 1"),
        (lambda d: d["options"]["budget"].update(absolute=1), "budget.absolute: 1 is not true or false"),
        (lambda d: d["options"].update(ranks=["conv1"]), "plan.options: rank: 'conv1' is not NAME=R"),
        (lambda d: d.update(sources={"a": 1}), "plan.sources.a: 1 is not a string"),
        (lambda d: d.update(sources=[]), r"plan.sources: \[\] is not an object"),
        (lambda d: d.update(macs_per="batch"), "not per 'batch'"),
        (lambda d: d.update(skipped=[7]), r"plan.skipped\[0\]: 7 is not an object"),
    ],
)  # fmt: skip
def test_wrong_json_is_refused_with_its_place(change, words):
    with pytest.raises(PlanError, match=words):
        Plan.from_json(edited(change))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no plan: line 1, column 1"),
        ("[]", r"plan: \[\] is not an object"), ("{", "is no plan: line 1"),
        ('{"twofold_plan": NaN}', "NaN is no JSON number"),
        ('{"twofold_plan": 1, "twofold_plan": 1}', "'twofold_plan' stands twice"),
    ],
)  # fmt: skip
def test_text_that_is_no_plan(text, words):
    with pytest.raises(PlanError, match=words):
        Plan.from_json(text)


def test_an_edited_rank_is_counted_anew_and_loses_its_prediction():
    plan = Plan.from_json(edited(lambda d: d["choices"][0].update(ranks=[3]), MEASURED))
    before, choice = MEASURED.choices[0], plan.check(NET).choices[0]
    layer = next(layer for layer in NET if layer.name == choice.layer)
    chain = scheme("spatial").chain(layer.geometry, choice.variant, (3,))
    assert choice.macs == (layer.macs, layer.macs_of(chain))
    assert choice.params == (layer.geometry.params, sum(g.params for g in chain))
    assert choice.macs[1] < before.macs[1]
    assert (choice.relative_error, choice.output_error) == (None, None)
    assert plan.predicted_error is None
    assert plan.choices[1:] == MEASURED.choices[1:]
    assert "?" in str(plan)


def test_what_a_person_may_leave_out():
    def bare(document):
        choice = document["choices"][0]
        document["choices"] = [
            {key: choice[key] for key in ("layer", "scheme", "variant", "ranks", "geometry")}
        ]
        for key in ("sources", "options", "macs_per", "notes", "totals", "skipped"):
            document.pop(key)

    plan = Plan.from_json(edited(bare)).check(NET)
    assert plan.choices[0] == replace(PLAN.choices[0], relative_error=None)
    assert len(plan.choices) + len(plan.skipped) == len(NET)


def test_a_removed_layer_stays_as_it_is():
    plan = Plan.from_json(edited(lambda d: d["choices"].pop(0))).check(NET)
    removed = PLAN.choices[0]
    assert {s.name: s.reason for s in plan.skipped}[removed.layer] == "not in the plan"
    assert plan.totals.macs[0] == PLAN.totals.macs[0]
    assert plan.totals.macs[1] == PLAN.totals.macs[1] + removed.macs[0] - removed.macs[1]


def test_a_twin_of_another_size_counts_its_own_macs():
    twin = [
        replace(layer, input_sizes=((40, 40),)) if not isinstance(layer, Skipped) else layer for layer in NET
    ]
    twin.append(make_layer("auxiliary", ConvGeometry.of(16, 16, (3, 3))))
    plan = PLAN.check(twin)
    assert [c.label for c in plan.choices] == [c.label for c in PLAN.choices]
    assert [c.params for c in plan.choices] == [c.params for c in PLAN.choices]
    assert all(new.macs[1] > old.macs[1] for new, old in zip(plan.choices, PLAN.choices, strict=True))
    assert [c.relative_error for c in plan.choices] == [c.relative_error for c in PLAN.choices]
    assert plan.skipped[-1].reason == "not in the plan"
    unsized = PLAN.check(small_net(sized=False))
    assert unsized.macs_per == "output position"
    assert unsized.totals.params == PLAN.totals.params


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer": "conv9"}, "conv9: the model has no such convolution; remove it .* or correct .*known"),
        ({"layer": "depthwise"}, "depthwise: cannot be decomposed in this model: grouped; remove it"),
        (
            {"geometry": ConvGeometry.of(24, 12, (3, 3), pad=2)},
            "is 12->24 3x3, pad 1 in this model and 12->24 3x3, pad 2",
        ),
        ({"scheme": "cp"}, "no scheme 'cp'; known: spatial"),
        ({"variant": "ww"}, "no variant 'ww'; use 'hw', 'wh'"),
        ({"ranks": (37,)}, "ranks 37 do not fit scheme 'spatial'; use 1 to 36"),
        ({"ranks": (0,)}, "ranks 0 do not fit"),
        ({"ranks": (4, 4)}, "ranks 4x4 do not fit scheme 'spatial'; use 1 to 36"),
        ({"ranks": ()}, r"ranks \(none\) do not fit"),
        ({"scheme": "tucker2", "variant": ""}, "do not fit scheme 'tucker2'; use 1 to 12 and 1 to 24"),
    ],
)  # fmt: skip
def test_choices_that_do_not_fit_are_named_with_their_remedy(change, words):
    choice = replace(FIRST, **change)
    with pytest.raises(PlanError, match=words):
        Plan((choice,), ()).check(NET)


def test_all_misfits_are_told_at_once():
    plan = replace(PLAN, choices=tuple(replace(c, ranks=(999,)) for c in PLAN.choices), skipped=())
    assert len(plan.choices) > 1
    with pytest.raises(PlanError) as caught:
        plan.check(NET)
    assert f"in {len(plan.choices)} places" in str(caught.value)
    assert all(f"\n  {c.layer}: ranks 999" in str(caught.value) for c in plan.choices)


def test_a_sharer_names_its_owner():
    owner = replace(NET[0], sharers=("twin",))
    choice = replace(FIRST, layer="twin")
    with pytest.raises(PlanError, match="twin: shares its weight with conv0; write conv0 instead"):
        Plan((choice,), ()).check([owner])


def test_a_schemes_refusal_reaches_the_reader():
    pointwise = NET[3]
    choice = Choice("conv3", pointwise.geometry, "spatial", "hw", (4,))
    with pytest.raises(
        PlanError, match=r"conv3: scheme 'spatial' does not apply: .*choose another or remove"
    ):
        Plan((choice,), ()).check(NET)


def test_a_layer_stands_in_a_plan_once():
    with pytest.raises(PlanError, match="it names a twice"):
        Plan((), (Skipped("a", "x"), Skipped("a", "y")))


def test_former_keys_are_read():
    former = MEASURED.to_json().replace('"metric":', '"kind":').replace('"layer_type":', '"kind":')
    assert former != MEASURED.to_json()
    assert Plan.from_json(former) == MEASURED
