"""The command line: what it prints where, its exit codes, and that nothing but one line meets a bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from tests.small import HEAD, NET, TRAIN_VAL, assert_close, conv, image, opencv, random_blobs, write

from twofold.cli import main
from twofold.cli.commands import Commands
from twofold.decomposition.calibrate import Calibration
from twofold.decomposition.warnings import UNMEASURED
from twofold.planning import Plan


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The two files of a small model, in the working folder."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    return ["net.prototxt", "net.caffemodel"]


#: What is said of options that cannot be read, or that contradict each other: the command line is wrong.
USAGE = {"1.5x", "macs", "multiple", "not NAME=R", "not NAME=SIZES", "--macs and --params; choose one"}


def rejected(capsys, argv: list[str], pattern: str, code: int = 1) -> None:
    """Run a command that is rejected: an exit code, one line on stderr, nothing on stdout."""
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("twofold: ")
    assert re.search(pattern, lines[0]), lines[0]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_decompose_writes_a_net_its_weights_and_the_plan(small, tmp_path, capsys):
    assert main(["decompose", *small, "-o", "out/", "--macs", "0.4", "--no-data"]) == 0
    out, err = capsys.readouterr()
    (warning,) = err.splitlines()
    assert warning.startswith(f"warning: {UNMEASURED.partition(';')[0]}; ")
    assert sorted(content(tmp_path / "out")) == [
        "net.caffemodel", "net.prototxt", "plan.json", "report.html", "report.json", "run.toml",
    ]  # fmt: skip
    assert "two" in out
    assert "0.4" in out
    assert "out/net.prototxt, out/net.caffemodel, out/plan.json" in out
    plan = Plan.load("out/plan.json")
    assert str(plan) in out
    assert plan.totals.macs_ratio <= 0.4
    assert set(plan.sources) == {"net.prototxt", "net.caffemodel"}


def test_json_is_all_that_is_printed(small, capsys):
    assert main(["decompose", *small, "-o", "out", "--json", "--no-data"]) == 0
    out, err = capsys.readouterr()
    (warning,) = err.splitlines()
    assert warning.startswith(f"warning: {UNMEASURED.partition(';')[0]}; ")
    found = json.loads(out)
    names = ["net.prototxt", "net.caffemodel", "plan.json", "run.toml", "report.json", "report.html"]
    assert found["files"] == [f"out/{name}" for name in names]
    assert found["plan"] == json.loads(Path("out/plan.json").read_text())


def test_inspect_lists_every_convolution(small, capsys):
    assert main(["inspect", *small]) == 0
    with_weights, err = capsys.readouterr()
    assert err == ""
    assert main(["inspect", small[0]]) == 0
    without, _ = capsys.readouterr()
    for out in (with_weights, without):
        assert re.search(r"one +16->64 3x3 +1.33M", out)
        assert re.search(r"out .*no rank that is a multiple of 16 makes it cheaper", out)
        assert re.search(r"one .*spatial, channel", out)
        assert "2 of 3 eligible" in out
    assert main(["inspect", *small, "--multiple", "4"]) == 0
    finer, _ = capsys.readouterr()
    assert re.search(r"out .*1x1 .* channel .* \d+ \(0\.\d+\)", finer)
    assert re.search(r"two .* 48 \(0\.\d+\)", with_weights)
    assert re.search(r"two .* 48 ", without)
    assert main(["inspect", *small, "--json", "--scheme", "channel"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [layer["name"] for layer in found["layers"]] == ["one", "two", "out"]
    assert found["layers"][1]["macs"] == 64 * 64 * 9 * 144
    assert found["layers"][1]["ranks"][1]["share"] == 0.5
    macs, params = ([layer[of] for layer in found["layers"]] for of in ("macs", "params"))
    assert found["totals"] == {
        "layers": 3, "eligible": 2, "macs": sum(macs), "unknown_macs": 0, "params": sum(params)
    }  # fmt: skip
    assert (found["schemes"], found["multiple"]) == (["channel"], 16)


def test_the_table_says_why_a_layer_stays(small, capsys):
    assert main(["decompose", *small, "-o", "out", "--skip", "o[nm]e", "--macs", "0.6", "--no-data"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"one .*skipped on request", out)
    assert re.search(r"out .*1x1", out)
    assert [choice.layer for choice in Plan.load("out/plan.json").choices] == ["two"]


def test_the_training_twin_gets_the_same_decisions_in_the_same_folder(small, tmp_path, capsys):
    """As the README has it: the weights are there already, byte for byte, and the plan is the one given."""
    (tmp_path / "train_val.prototxt").write_text(TRAIN_VAL)
    assert main(["decompose", *small, "-o", "out/", "--macs", "0.4", "--no-data"]) == 0
    before = content(tmp_path / "out")
    assert main(["apply", "out/plan.json", "train_val.prototxt", small[1], "-o", "out/"]) == 0
    after = content(tmp_path / "out")
    twin = after.pop("train_val.prototxt").decode()
    assert after == before
    assert twin[: len(TRAIN_VAL) // 4] == TRAIN_VAL[: len(TRAIN_VAL) // 4]
    for line in before["net.prototxt"].decode().removeprefix(HEAD).splitlines():
        assert line in twin
    assert main(["apply", "out/plan.json", "train_val.prototxt", small[1], "-o", "out/"]) == 0  # and again
    capsys.readouterr()


def test_an_edited_plan_is_applied_where_it_is(small, tmp_path, capsys):
    assert main(["decompose", *small, "-o", "out/", "--macs", "0.4", "--no-data"]) == 0
    plan = json.loads(Path("out/plan.json").read_text())
    choice = next(c for c in plan["choices"] if c["layer"] == "two")
    choice["ranks"] = [choice["ranks"][0] + 1]
    Path("out/plan.json").write_text(json.dumps(plan))
    edited = Path("out/plan.json").read_bytes()
    capsys.readouterr()
    rejected(capsys, ["apply", "out/plan.json", *small, "-o", "out"], "net.caffemodel: exists already")
    assert main(["apply", "out/plan.json", *small, "-o", "out", "--force"]) == 0
    assert Path("out/plan.json").read_bytes() == edited
    assert f"num_output: {choice['ranks'][0]}" in Path("out/net.prototxt").read_text()
    assert main(["apply", "out/plan.json", *small, "-o", "elsewhere"]) == 0
    assert Plan.load("elsewhere/plan.json").choices[-1].ranks == tuple(choice["ranks"])
    capsys.readouterr()


@pytest.mark.parametrize("name", ["net.prototxt", "net.caffemodel", "plan.json", "report.html"])
def test_existing_files_are_refused_before_the_work(small, tmp_path, capsys, monkeypatch, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"mine")
    with monkeypatch.context() as patched:
        patched.setattr(
            "twofold.cli.make.decompose_model", lambda *_, **__: pytest.fail("worked before it rejected")
        )
        rejected(capsys, ["decompose", *small, "-o", "out"], rf"out/{name}: exists already.*--force")
    assert content(tmp_path / "out") == {name: b"mine"}
    assert main(["decompose", *small, "-o", "out", "--force", "--no-data"]) == 0
    assert (tmp_path / "out" / name).read_bytes() != b"mine"


def test_a_result_may_replace_its_own_input(small, tmp_path, capsys):
    before = image()
    wanted = opencv(*small, before)
    argv = ["decompose", *small, "-o", ".", "--force", "--rank", "*=full", "--skip", "out", "--no-data"]
    assert main(argv) == 0
    capsys.readouterr()
    assert "one_0" in Path(small[0]).read_text()
    assert_close(opencv(*small, before)[0], wanted[0])


def test_full_rank_gives_the_same_output(small, capsys):
    x = image()
    for scheme, more in (
        ("spatial", []),
        ("channel", ["--no-data"]),
        ("input", []),
        ("tucker2", ["--no-data"]),
    ):
        argv = ["decompose", *small, "-o", scheme, "--scheme", scheme, "--rank", "*=full", "--only", "t*"]
        assert main([*argv, *more]) == 0
        files = [f"{scheme}/net.prototxt", f"{scheme}/net.caffemodel"]
        assert_close(opencv(*files, x)[0], opencv(*small, x)[0])
    capsys.readouterr()


def test_a_dearer_layer_of_the_reference_is_said(tmp_path, monkeypatch, capsys):
    """(8, 3, 7, 7) costs 1.05 to 1.33 times more under AMCT's rank rule."""
    monkeypatch.chdir(tmp_path)
    text = HEAD.replace("dim: 16", "dim: 3") + conv("stem", "data").replace("64", "8").replace(
        "kernel_size: 3", "kernel_size: 7"
    )
    files = write(tmp_path, text)
    assert main(["decompose", *files, "-o", "out", "--rule", "amct"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"stem.*spatial.*1\.\d\d\d", out)
    assert "costs more" in out or "more expensive" in out
    assert main(["decompose", *files, "-o", "better", "--no-data"]) == 0
    assert "files were copied unchanged" in capsys.readouterr().out


def test_nothing_to_decompose_copies_the_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = write(tmp_path, HEAD + conv("one", "data").replace("kernel_size: 3", "kernel_size: 1"))
    assert main(["decompose", *files, "-o", "out"]) == 0
    out = capsys.readouterr().out
    assert "the files were copied unchanged" in out
    assert re.search(r"one .*1x1", out)
    for name in ("net.prototxt", "net.caffemodel"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    ("argv", "pattern"),
    [
        (["--macs", "1.5x"], "1.5x"),
        (["--macs", "-1"], "macs"),
        (["--macs", "0.0001"], "least|reach"),
        (["--macs", "0.5", "--params", "0.5"], "--macs and --params; choose one"),
        (["--rule", "amct", "--macs", "0.5"], "does not apply"),
        (["--rule", "best"], "no rule 'best'; known: amct"),
        (["--scheme", "cp"], "no scheme 'cp'; known: spatial"),
        (["--only", "conv9"], "no convolution is called 'conv9'; known: one, two, out"),
        (["--skip", "ones"], "did you mean 'one'"),
        (["--rank", "one"], "not NAME=R"),
        (["--rank", "one=0"], "not NAME=R"),
        (["--rank", "one=4711"], "rank 4711 is outside 1 to 48"),
        (["--rank", "one=99999999999999999999"], "outside 1 to 48"),
        (["--rank", "one=2x2"], "one: gets 2 rank"),
        (["--scheme", "spatial", "--rank", "out=4"], "out is left alone"),
        (["--multiple", "0"], "multiple"),
        (["--energy", "1.5"], "energy"),
        (["--input", "data=3"], r"inputs of shape \[3\]: axis 1"),
        (["--input", "data=1x16xA"], "not NAME=SIZES"),
        (["--input", "image=1x3x8x8"], "no input 'image'; it has data"),
    ],
)
def test_options_that_make_no_sense_are_one_line(small, capsys, argv, pattern):
    rejected(
        capsys, ["decompose", *small, "-o", "out", "--no-data", *argv], pattern, 2 if pattern in USAGE else 1
    )
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("argv", "pattern"),
    [
        (
            ["--macs", "0.0001"],
            r"reach: the lowest reachable ratio is 0\.\d+.*would do: a ratio of",
        ),
        (["--params", "10"], r"10 is a ratio above 1"),
        (["--params", "0.01k"], r"10 params are out of reach"),
        (["--skip", "Conv_999"], "no convolution is called 'Conv_999'"),
        (["--multiple", "0"], "multiple"),
        (["--rank", "one=4711"], "rank 4711 is outside 1 to 48"),
    ],
)
def test_what_shapes_alone_tell_is_refused_before_any_input_is_made(
    small, capsys, monkeypatch, argv, pattern
):
    monkeypatch.setattr(Calibration, "prepare", lambda *_: pytest.fail("made inputs before it rejected"))
    rejected(capsys, ["decompose", *small, "-o", "out", *argv], pattern, 2 if pattern in USAGE else 1)


@pytest.mark.parametrize(
    "argv", [[], ["decompose"], ["nonsense"], ["decompose", "a", "b", "--nope", "-o", "c"]]
)
def test_a_wrong_command_line_ends_with_2(capsys, argv):
    assert main(argv) == 2
    assert "Traceback" not in capsys.readouterr().err


def commands() -> list[tuple[str, ...]]:
    """All commands, those of groups with the group's name before them."""
    names: list[tuple[str, ...]] = []
    for name, command in Commands().items():
        inner = getattr(command, "commands", None)
        names += [(name,)] if inner is None else [(name, one) for one in inner]
    return names


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_shows_an_example_and_has_json(capsys, command):
    assert main([*command, "--help"]) == 0
    page = capsys.readouterr().out
    assert all(line.startswith(" Example: ") for line in page.splitlines() if "Example: " in line)
    words = re.sub(r"\s+", " ", page)
    assert f"Example: twofold {' '.join(command)}" in words
    assert "--json" in words


def test_the_first_page_fits_a_screen_and_shows_every_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["--help"]) == 0
    page, err = capsys.readouterr()
    assert err == ""
    lines = page.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert "..." not in page  # no description was cut
    assert all(f" {command[0]} " in page for command in commands())
    for example in re.findall(r"^  twofold (\w+)", page, re.MULTILINE):
        assert (example,) in commands()
    assert main([]) == 2
    assert capsys.readouterr().err.strip() == page.strip()


def test_a_wrong_command_line_is_one_line_that_says_where_help_is(capsys):
    rejected(capsys, ["decompose", "a"], r"--output.*; see twofold decompose --help$", code=2)
    rejected(capsys, ["nonsense"], r"nonsense.*; see twofold --help$", code=2)
    rejected(capsys, ["latency", "show", "--nope"], r"--nope.*; see twofold latency show --help$", code=2)


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"twofold {version('twofold')}\n"


def test_no_color_is_respected(tmp_path):
    """Where colours are asked for, NO_COLOR still has the last word; it says nothing of bold type."""
    asked = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    asked.pop("NO_COLOR", None)
    found = {}
    for name, environment in (("colour", asked), ("none", {**asked, "NO_COLOR": "1"})):
        process = run_cli("inspect", "--help", env=environment)
        found[name], _ = process.communicate(timeout=1200)
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    assert colour.search(found["colour"])
    assert not colour.search(found["none"])


def test_completion_offers_the_commands():
    words = {"_TWOFOLD_COMPLETE": "complete_bash", "COMP_WORDS": "twofold ", "COMP_CWORD": "1"}
    process = run_cli(env={**os.environ, **words})
    out, err = process.communicate(timeout=1200)
    assert err == ""
    assert {command[0] for command in commands()} <= set(out.split())


def test_files_that_are_missing_or_swapped(small, tmp_path, capsys):
    rejected(capsys, ["decompose", "no.prototxt", small[1], "-o", "out"], "no.prototxt: .*No such file")
    rejected(capsys, ["decompose", small[0], "no.caffemodel", "-o", "out"], "no.caffemodel: .*No such file")
    rejected(capsys, ["decompose", ".", small[1], "-o", "out"], "cannot read.*directory")
    rejected(capsys, ["decompose", small[0], ".", "-o", "out"], "cannot read.*directory")
    rejected(
        capsys,
        ["decompose", *reversed(small), "-o", "out"],
        "wrong order.*give net.prototxt net.caffemodel",
    )
    rejected(capsys, ["inspect", *reversed(small)], "wrong order.*give net.prototxt net.caffemodel")
    rejected(capsys, ["inspect", small[1]], "not a prototxt but a binary file")
    rejected(capsys, ["apply", "plan.json", *small, "-o", "out"], "plan.json: cannot read the plan")
    rejected(capsys, ["apply", small[1], *small, "-o", "out"], "is no plan|not a plan|no JSON")
    rejected(capsys, ["apply", small[0], *small, "-o", "out"], "is no plan|not a plan|no JSON|not JSON")
    (tmp_path / "file").write_text("")
    rejected(capsys, ["decompose", *small, "-o", "file"], "file.*[Nn]ot a directory|file: ")
    rejected(capsys, ["decompose", *small, "-o", "file/out"], "file")
    assert not Path("out").exists()


def test_a_read_only_folder():
    """In a child that becomes someone who is not root; it runs once before, since imports may need root."""
    code = (
        "import os, sys\n"
        "from twofold.cli import main\n"
        "assert main(['decompose', *sys.argv[1:], '--no-data', '-o', 'warm']) == 0\n"
        "os.setuid(os.geteuid() or 65534)\n"
        "sys.exit(main(['decompose', *sys.argv[1:], '--no-data', '-o', 'out', '--force']))"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        files = write(folder)
        (folder / "out").mkdir()
        (folder / "out" / "net.prototxt").write_text("old")
        (folder / "out").chmod(0o555)
        run = subprocess.run(
            [sys.executable, "-c", code, *files], cwd=folder, capture_output=True, text=True, check=False
        )
        (folder / "out").chmod(0o755)
        assert run.returncode == 1
        assert re.fullmatch(
            r"(warning: .*\n)*twofold: out/net.*: cannot write: Permission denied; nothing was changed\n",
            run.stderr,
        )
        assert content(folder / "out") == {"net.prototxt": b"old"}


def test_a_folder_that_cannot_be_made(small, capsys):
    rejected(capsys, ["decompose", *small, "-o", "/proc/twofold"], "/proc/twofold.*nothing was changed")


def test_a_plan_that_does_not_fit_names_every_layer(small, tmp_path, capsys):
    assert main(["decompose", *small, "-o", "out", "--macs", "0.4", "--no-data"]) == 0
    capsys.readouterr()
    other = tmp_path / "other"
    other.mkdir()
    files = write(other, NET.replace('"one"', '"uno"').replace("pad: 1", "pad: 0"))
    assert main(["apply", "out/plan.json", *files, "-o", "new"]) == 1
    err = capsys.readouterr().err
    assert "does not fit this model" in err
    assert re.search(r"one: the model has no such convolution.*uno", err)
    assert re.search(r"two: is .* in this model and .* in the plan", err)


def test_notes_of_a_file_go_to_stderr(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = NET + 'layer { name: "f" type: "Fancy" bottom: "out" top: "f" fancy_param { size: 3 } }\n'
    files = write(tmp_path, text)
    assert main(["decompose", *files, "-o", "out", "--json"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert re.search(r"note: .*net\.prototxt:\d+:\d+: field 'fancy_param' of LayerParameter is unknown", err)
    assert re.search(r"note: .*layer type 'Fancy' is unknown to BVLC Caffe \('f'\)", err)
    assert text.splitlines()[-1] in Path("out/net.prototxt").read_text()


def test_weights_that_are_not_finite_name_the_layer_and_the_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blobs = random_blobs(NET)
    blobs["two"][0][3, 2, 1, 0] = np.nan
    files = write(tmp_path, NET, blobs)
    rejected(capsys, ["decompose", *files, "-o", "out"], r"two: 1 of its 36864 weights.*--skip two")
    assert main(["decompose", *files, "-o", "out", "--skip", "two", "--macs", "0.9", "--no-data"]) == 0
    capsys.readouterr()
    assert main(["inspect", *files]) == 0
    assert re.search(r"two .*1 of its 36864 weights", capsys.readouterr().out)


def run_cli(*argv: str, **options) -> subprocess.Popen[str]:
    code = "import sys; from twofold.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_a_pipe_that_closes_is_no_traceback(small):
    process = run_cli("inspect", *small)
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait()
    process.stderr.close()


def test_an_interrupt_is_one_line_and_130(small, tmp_path):
    os.mkfifo("slow.prototxt")  # reading it blocks
    process = run_cli("decompose", "slow.prototxt", small[1], "-o", "out")
    with open("slow.prototxt", "w"):  # goes on once the file is being read
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=1200)
    assert process.returncode == 130
    assert err == (
        "twofold: interrupted; no file was left half-written; the same command begins again\n"  # no cache
    )


def test_an_interrupt_in_the_middle_of_the_work_leaves_nothing(small, tmp_path):
    pytest.importorskip("torch")
    np.save("inputs.npy", np.random.default_rng(0).random((8, 16, 12, 12), np.float32))
    Path("stop.py").write_text(
        "import os, signal\ndef now(outputs):\n    os.kill(os.getpid(), signal.SIGINT)\n    return 0.0\n"
    )
    before = set(tmp_path.iterdir())
    process = run_cli("decompose", *small, "-o", "out", "--data", "inputs.npy", "--metric", "stop:now")
    _, err = process.communicate(timeout=1200)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("twofold: interrupted; no file was left half-written; ")
    assert "Traceback" not in err
    assert {path for path in tmp_path.iterdir() if path.name != "__pycache__"} == before


@pytest.mark.parametrize(("macs", "warned"), [(0.3, True), (0.95, False)])
def test_weights_alone_that_lose_much_say_that_accuracy_is_lost(small, capsys, macs, warned):
    options = ["--macs", str(macs), "--no-data", "--no-report", "--multiple", "2"]
    assert main(["decompose", *small, "-o", "out", *options]) == 0
    found = re.findall(
        r"(\d) of \d decomposed layers have an error above 0.3, two 0\.\d+", capsys.readouterr().err
    )
    plan = Plan.load("out/plan.json")
    assert found == ([str(sum(one.relative_error > 0.3 for one in plan.choices))] if warned else [])
