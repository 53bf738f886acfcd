"""The report as a value and as text: what it holds, that it comes back from its JSON, and what it rejects."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.report.nets import BROKEN, hostile_report, long_report, plain, report_of, result_of
from tests.small import write

import twofold
from twofold.cli import main
from twofold.cli.report import files_of
from twofold.errors import FormatError, OptionError
from twofold.finetune.evaluate import Test
from twofold.finetune.options import Outcome
from twofold.formats.graph import NetGraph, Node
from twofold.recover import Recovery
from twofold.report import Made, Recovered, Report, Training, of_result
from twofold.report.data import Box, Sample, Shown
from twofold.report.layout import lay_out
from twofold.report.page import page
from twofold.report.plot import plot
from twofold.report.routes import WIDTH, height_of, route
from twofold.report.sections.origin import _calibration
from twofold.report.svg import Axes, Line, chart, log_ticks, nice_ticks

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


class Tags(HTMLParser):
    """Checks that tags nest, and collects what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.fetched = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [
            value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")
        ]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return result_of(tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def report(result):
    return report_of(result)


def checked(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    assert all(value.startswith("data:") for value in tags.fetched), tags.fetched
    assert not re.search(r"url\((?!data:)|@import|https?://", page)
    return tags


def test_the_page_is_well_formed_and_fetches_nothing(report):
    checked(page(report))


def test_the_page_holds_what_the_plan_says(report, result):
    text = page(report)
    for choice in result.plan.choices:
        assert choice.layer in text
        assert choice.label in text
    for skipped in result.plan.skipped:
        assert skipped.reason in text.replace("&#39;", "'")
    assert f"{1 / result.plan.totals.macs_ratio:.2f} times fewer MACs" in text
    assert next(iter(result.plan.sources.values())) in text


def test_the_page_comes_back_from_the_json_alone(report):
    text = report.to_json()
    again = Report.from_json(text)
    assert again.to_json() == text
    assert page(again) == page(report)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_samples_show_both_nets(report):
    assert len(report.samples) == 3  # the held-out eighth of 24
    for sample in report.samples:
        (shown,) = sample.outputs
        assert len(shown.maps) == 3
        assert shown.maps[0] != shown.maps[1]


def test_the_trade_off_goes_down_and_holds_the_plan(result):
    (tradeoff,) = result.tradeoff_curves.tradeoffs
    assert tradeoff.measured
    assert tradeoff.ratios[-1] == pytest.approx(1.0)
    assert tradeoff.errors[-1] == pytest.approx(0.0, abs=1e-9)
    assert np.all(np.diff(tradeoff.ratios) >= 0)
    assert np.all(np.diff(tradeoff.errors) <= 1e-12)
    assert tradeoff.chosen[0] == pytest.approx(result.plan.totals.macs_ratio)
    assert tradeoff.chosen[1] == pytest.approx(result.plan.predicted_error)
    # The plan is the best at its cost: the curve does not pass below it, nor far above.
    below = np.interp(tradeoff.chosen[0], tradeoff.ratios, tradeoff.errors)
    assert tradeoff.chosen[1] == pytest.approx(below, rel=0.15)
    ratio, error = tradeoff.reference
    assert error >= np.interp(ratio, tradeoff.ratios, tradeoff.errors) * 0.85


def test_a_layers_curve_passes_through_what_was_chosen(result):
    curves = {one.layer: one.curves for one in result.tradeoff_curves.layers}
    for choice in result.plan.choices:
        kind = (choice.scheme, choice.variant)
        curve = next(one for one in curves[choice.layer] if (one.scheme, one.variant) == kind)
        assert np.all(np.diff(curve.errors) <= 1e-9)
        ranks = [ranks[0] for ranks in curve.ranks]
        assert choice.relative_error == pytest.approx(
            np.interp(choice.ranks[0], ranks, curve.errors), rel=0.1
        )


def test_html_in_names_is_shown_and_does_nothing():
    text = page(hostile_report())
    checked(text)
    assert BROKEN not in text
    assert text.count("<script>") == 1
    assert "&lt;img src=x" in text


def test_a_long_net_stays_small():
    report = long_report()
    assert len(page(report).encode()) < 2_000_000
    assert len(report.to_json().encode()) < 2_000_000


@pytest.mark.parametrize(
    ("damage", "pattern"),
    [
        (lambda one: one.pop("title"), "'title' is missing"),
        (lambda one: one.update(more=1), "'more' is unknown"),
        (lambda one: one.update(twofold_report=9), "layout 9"),
        (lambda one: one["made"].update(version=3), "made.version"),
        (lambda one: one["plan"].pop("choices"), "choices"),
        (lambda one: one["graph"]["nodes"][0].update(sources=[0.5]), r"graph.nodes\[0\].sources\[0\]"),
        (lambda one: one.pop("twofold_report"), "is no report"),
    ],
)
def test_a_damaged_json_is_refused_with_its_place(report, damage, pattern, tmp_path):
    document = json.loads(json.dumps(plain(report)))
    damage(document)
    (tmp_path / "report.json").write_text(json.dumps(document))
    with pytest.raises(Exception, match=pattern) as caught:
        Report.load(tmp_path)
    assert isinstance(caught.value, twofold.TwofoldError)
    assert str(tmp_path / "report.json") in str(caught.value) or "plan" in str(caught.value)


def test_no_report_says_where_it_should_be(tmp_path):
    with pytest.raises(FormatError, match=r"report.json.*--no-report"):
        Report.load(tmp_path)


def test_the_command_makes_the_page_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    assert (
        main(["decompose", "net.prototxt", "net.caffemodel", "-o", "out", "--macs", "0.5", "--no-data"]) == 0
    )
    text = (tmp_path / "out" / "report.html").read_bytes()
    assert b"twofold decompose net.prototxt net.caffemodel -o out --macs 0.5" in text
    (tmp_path / "out" / "report.html").unlink()
    assert main(["report", "out"]) == 0
    assert (tmp_path / "out" / "report.html").read_bytes() == text
    assert main(["report", "out/report.json", "-o", "other.html", "--json"]) == 0
    assert (tmp_path / "other.html").read_bytes() == text
    (tmp_path / "other.html").write_text("mine")
    assert main(["report", "out", "-o", "other.html"]) == 1
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "other.html").read_text() == "mine"
    assert main(["report", "out", "-o", "other.html", "--force"]) == 0
    assert (tmp_path / "other.html").read_bytes() == text
    capsys.readouterr()
    assert main(["report", "out", "-o", "out/report.json"]) == 1
    assert main(["report", "elsewhere"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2


def test_a_report_that_fails_does_not_cost_the_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    monkeypatch.setattr(import_module("twofold.report.page"), "page", lambda report: 1 / 0)
    assert (
        main(["decompose", "net.prototxt", "net.caffemodel", "-o", "out", "--macs", "0.5", "--no-data"]) == 0
    )
    assert "no report: ZeroDivisionError" in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["net.caffemodel", "net.prototxt", "plan.json", "run.toml"]


def test_compare_and_quantize_write_their_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = ["net.prototxt", "net.caffemodel"]
    write(tmp_path)
    np.save("data.npy", np.random.default_rng(0).normal(size=(20, 16, 12, 12)).astype(np.float32))
    given = ["--data", "data.npy"]
    assert main(["decompose", *files, "-o", "out", "--macs", "0.5", "--no-data", "--no-report"]) == 0
    assert not (tmp_path / "out" / "report.html").exists()
    assert main(["compare", *files, "out", *given, "--report", "compared", "--threads", "1"]) == 0
    text = (tmp_path / "compared" / "report.html").read_text()
    checked(text)
    assert "Outputs on the same inputs" in text
    assert "what both networks make of them" in text
    assert main(["quantize", *files, "-o", "int8", *given]) == 0
    text = (tmp_path / "int8" / "report.html").read_text()
    checked(text)
    assert "What int8 costs, layer by layer" in text
    for name in ("one", "two", "out"):
        assert f'<th scope="row">{name}</th>' in text
    before = (tmp_path / "int8" / "report.html").read_bytes()
    assert main(["report", "int8/report.json"]) == 0
    assert (tmp_path / "int8" / "report.html").read_bytes() == before
    capsys.readouterr()


def test_boxes_that_are_lost_are_at_the_top_and_on_the_terminal(result, capsys):
    found = Box(0.1, 0.1, 0.5, 0.5, 0.9, "class 1")
    samples = (
        Sample("data:,", (Shown("out", boxes=((found,), ())),)),
        Sample("data:,", (Shown("out", boxes=((found, found), (found,))),)),
    )
    report = replace(of_result(result), samples=samples)
    about = re.search('<p class="about">(.*)</p>', page(report))[1]
    assert about.endswith("; boxes in the inputs shown: 3 before, 1 after.")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(import_module("twofold.report"), "of_result", lambda *_: report)
        files_of(result)
    assert capsys.readouterr().err == "note: boxes in the inputs shown: 3 before, 1 after\n"
    assert replace(report, samples=()).boxes == ""


def test_boxes_that_only_one_finds_stand_beside_both(result):
    kept, gone = Box(0.1, 0.1, 0.5, 0.5, 0.9, "class 1"), Box(0.6, 0.6, 0.9, 0.9, 0.8, "class 2")
    moved, other = replace(kept, left=0.11, score=0.7), replace(kept, label="class 3")
    shown = Shown("out", boxes=((kept, gone), (moved, other)))
    text = page(replace(of_result(result), samples=(Sample("data:,", (shown,)),)))
    figures = re.findall('<figure class="boxed">(.*?)</figure>', text, re.DOTALL)
    titles = [re.search("<figcaption>(.*)</figcaption>", one)[1] for one in figures]
    assert titles == ["out, before: 2 boxes", "out, after: 2 boxes", "out, difference: 1 lost, 1 new"]
    drawn = re.findall(r'<rect class="(\w+)"[^>]*(class \d)', figures[2], re.DOTALL)
    assert drawn == [("was", "class 2"), ("is", "class 3")]


def test_boxes_of_one_network_alone_are_no_report(result):
    shown = Shown("out", boxes=((Box(0.1, 0.1, 0.5, 0.5, 0.9, "class 1"),),))
    report = replace(of_result(result), samples=(Sample("data:,", (shown,)),))
    with pytest.raises(FormatError, match="has 1 lists of boxes of 'out', not 2"):
        Report.from_json(report.to_json())


def test_how_it_was_made_is_said_in_words():
    record = {
        "inputs": {"source_type": "images", "options": {"size": None, "scale": 0.5}, "skipped": []},
        "shrunk": {f"layer{i}": i / 7 for i in range(40)},
        "means_corrected": [f"conv{i}" for i in range(56)],
        "nested": {"few": [1, 2], "many": [f"name{i}" for i in range(50)]},
        "nothing": {"size": None},
    }
    facts = {one.name: one for one in _calibration(record)}
    assert list(facts) == [
        f"calibration: {name}" for name in ("inputs", "shrunk", "means corrected", "nested")
    ]
    assert facts["calibration: inputs"].value == "source type images, options scale 0.5"
    assert facts["calibration: inputs"].details == ""
    assert facts["calibration: shrunk"].value == "40 entries"
    assert "layer1 0.1429" in facts["calibration: shrunk"].details
    assert facts["calibration: means corrected"].value == "56 entries"
    assert facts["calibration: means corrected"].details.endswith("conv55")
    assert facts["calibration: nested"].value == "few 1, 2, many 50 entries"
    assert not any(mark in one.value for one in facts.values() for mark in '{}[]"')


def test_a_title_says_what_was_done(result):
    made = Made()
    assert "<title>decomposition: net.prototxt · twofold</title>" in page(of_result(result))
    gained = Report("net", made, result.plan, recovered=Recovered((0.2, 0.1), 4))
    assert "<title>recovery: net · twofold</title>" in page(gained)
    assert "<title>training: net · twofold</title>" in page(Report("net", made, training=Training()))


def test_a_result_shows_itself_in_a_notebook(result):
    html = result._repr_html_()
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert "<script" not in html
    for choice in result.plan.choices:
        assert choice.label in html


def test_a_plot_has_a_bar_per_layer_and_the_trade_off(result):
    pytest.importorskip("matplotlib")
    figure = plot(result)
    bars, curve = figure.axes
    names = [label.get_text() for label in bars.get_yticklabels()]
    assert names == [*(c.layer for c in result.plan.choices), *(s.name for s in result.plan.skipped)]
    widths = [patch.get_width() for patch in bars.patches]
    assert widths[len(names) :] == [choice.macs[1] for choice in result.plan.choices]
    assert len(curve.lines) == 3


def test_branches_get_lanes_of_their_own():
    nodes = (
        Node("data", "Input"),
        Node("left", "Conv", (0,)),
        Node("relu", "Relu", (1,)),
        Node("deep", "Conv", (2,), layer="deep"),
        Node("right", "Conv", (0,)),
        Node("sum", "Add", (3, 4)),
    )
    blocks = {block.node.name: block for block in lay_out(NetGraph(nodes), {"deep": 2})}
    assert "relu" not in blocks
    assert blocks["left"].with_op_types == ("Relu",)
    assert [blocks[name].layer for name in ("data", "left", "deep", "right", "sum")] == [0, 1, 2, 1, 3]
    assert blocks["deep"].lane == blocks["left"].lane == blocks["sum"].lane == 0
    assert blocks["right"].lane == 1


def test_activations_that_are_spelt_out_are_drawn_into_their_layer():
    """SiLU and Mish as ONNX has them; a product with what somebody else reads, too, stays."""
    nodes = (
        Node("silu", "Conv", layer="silu"),
        Node("s", "Sigmoid", (0,)),
        Node("x*s", "Mul", (0, 1)),
        Node("mish", "Conv", (2,), layer="mish"),
        Node("p", "Softplus", (3,)),
        Node("t", "Tanh", (4,)),
        Node("t*x", "Mul", (5, 3)),
        Node("gate", "Conv", (6,), layer="gate"),
        Node("g", "Sigmoid", (7,)),
        Node("x*g", "Mul", (7, 8)),
        Node("beside", "Add", (7, 9)),
    )
    blocks = {block.node.name: block for block in lay_out(NetGraph(nodes), {})}
    assert set(blocks) == {"silu", "mish", "gate", "g", "x*g", "beside"}
    assert blocks["silu"].with_op_types == ("Sigmoid", "Mul")
    assert blocks["mish"].with_op_types == ("Softplus", "Tanh", "Mul")


@st.composite
def networks(draw):
    """Graphs with branches, skips over many layers and second inputs, and heights of some layers."""
    nodes = [Node("0", "Input")]
    for i in range(1, draw(st.integers(1, 40))):
        reach = draw(st.sampled_from((1, 2, 6, 40)))
        sources = draw(st.sets(st.integers(max(0, i - reach), i - 1), max_size=4))
        nodes.append(Node(str(i), "Conv", tuple(sorted(sources)), layer=str(i)))
    heights = {node.name: draw(st.integers(1, 3)) for node in nodes}
    return NetGraph(tuple(nodes)), heights


def box(routes, block):
    left, top = routes.place(block)
    return left, top, left + WIDTH, top + height_of(block.rows)


@given(networks())
@settings(max_examples=150)
def test_no_two_blocks_overlap_and_no_edge_crosses_a_block(network):
    blocks = lay_out(*network)
    routes = route(blocks)
    boxes = [box(routes, block) for block in blocks]
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left <= right <= routes.width
        assert 0 <= top <= bottom <= routes.height
        for other in boxes[:i]:
            assert left >= other[2] or other[0] >= right or top >= other[3] or other[1] >= bottom
    edges = {(source, target) for target, block in enumerate(blocks) for source in block.sources}
    assert set(routes.ways) == edges
    for (source, target), way in routes.ways.items():
        assert way[0] == ((boxes[source][0] + boxes[source][2]) / 2, boxes[source][3])
        assert boxes[target][0] < way[-1][0] < boxes[target][2]
        assert way[-1][1] == boxes[target][1]
        for (x1, y1), (x2, y2) in pairwise(way):
            assert x1 == x2 or y1 == y2
            low, high = (min(x1, x2), min(y1, y2)), (max(x1, x2), max(y1, y2))
            for i, (left, top, right, bottom) in enumerate(boxes):
                inside = low[0] < right and high[0] > left and low[1] < bottom and high[1] > top
                assert not inside, f"the edge {source}-{target} crosses {i}"


@given(networks())
@settings(max_examples=150)
def test_edges_of_two_sources_do_not_lie_on_each_other(network):
    blocks = lay_out(*network)
    parts = [
        (source, *sorted(part)) for (source, _), way in route(blocks).ways.items() for part in pairwise(way)
    ]
    for i, (source, (x1, y1), (x2, y2)) in enumerate(parts):
        for other, (u1, v1), (u2, v2) in parts[:i]:
            if other == source:
                continue
            same_column = x1 == x2 == u1 == u2 and max(y1, v1) < min(y2, v2)
            same_row = y1 == y2 == v1 == v2 and max(x1, u1) < min(x2, u2)
            assert not same_column, (source, other)
            assert not same_row, (source, other)


def test_ticks_are_round_and_inside():
    assert nice_ticks(0.0, 1.0, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(16, 250, 4) == [50.0, 100.0, 150.0, 200.0, 250.0]
    assert log_ticks(0.004, 2.0) == pytest.approx([0.01, 0.1, 1.0])
    assert log_ticks(0.02, 0.3) == pytest.approx([0.02, 0.05, 0.1, 0.2])


@pytest.mark.parametrize("error", [0.3, 7e-13, 3e-15, 1.5e-16])
def test_a_chart_of_errors_that_are_rounding_alone_is_drawn(error):
    """Full rank of a layer with one output: nothing is lost but the last digits."""
    low, high = error / 2, 2 * error
    assert all(low * 0.99 <= tick <= high * 1.01 for tick in log_ticks(low, high))
    assert len(log_ticks(low, high)) >= 2
    line = Line(((1.0, error),), "curve", ("",))
    assert "circle" in chart(Axes(300, 200, "rank", "relative error"), [line], [], "error by rank")


def test_one_function_reports_on_everything(result, tmp_path):
    found = twofold.report(result, tmp_path, title="mine")
    assert found == replace(of_result(result), title="mine")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page(found)
    assert Report.load(tmp_path).plan == result.plan
    recovery = Recovery(result.model, 0.2, 0.1, ((0, 0.2), (5, 0.1)), 4)
    assert twofold.report(recovery, plan=result.plan).recovered == Recovered((0.2, 0.1), 4)
    tests = (Test(1, 0, {"loss": (0.5,)}), Test(2, 0, {"loss": (0.4,)}, int8=True))
    outcome = Outcome(2, 0.5, tests, (), 1.0, 0)
    told = twofold.report(outcome).training
    assert told.tests == {"test net #0: loss": ((1, 0.5),)}
    assert told.int8_tests == {"test net #0: loss": ((2, 0.4),)}
    assert twofold.report(told).training == told
    with pytest.raises(OptionError, match="type Plan"):
        twofold.report(result.plan)


def test_former_ways_to_a_report_warn(result, tmp_path):
    with pytest.warns(FutureWarning, match=r"twofold\.report\(result\) now"):
        found = result.report()
    with pytest.warns(FutureWarning, match=r"page\.page"):
        assert found.page() == page(found)
    with pytest.warns(FutureWarning, match="report=True"):
        files = result.save(tmp_path, report=True)
    assert {"report.html", "report.json"} < {path.name for path in files}
