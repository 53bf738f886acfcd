"""Every command finds what it cannot write before its work; of two that would write one file one begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.small import write

from twofold.cli import main
from twofold.formats.base import reserved


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    (tmp_path / "file").touch()
    return ["net.prototxt", "net.caffemodel"]


#: Each command, its arguments but for the output, and where in it the work begins.
COMMANDS = {
    "decompose": (
        ["decompose", *(N := ["net.prototxt", "net.caffemodel"])],
        "twofold.cli.make.decompose_model",
    ),
    "recover": (["recover", *N, *N], "twofold.cli.improve.recover_model"),
    "quantize": (["quantize", *N], "twofold.cli.deploy.quantize_model"),
    "export": (["export", *N], "twofold.cli.deploy.export_model"),
    "latency": (["latency", "export", *N], "twofold.latency.offline.requests"),
}


def rejected(capsys, argv: list[str], says: str, code: int = 1) -> None:
    assert main(argv) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert (out, len(lines)) == ("", 1), err
    assert says in lines[0]


@pytest.fixture
def never(monkeypatch):
    """Lets a test fail where the work of a command begins."""

    def at(place: str) -> None:
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("the work began"))

    return at


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("file/out", "cannot write: Not a directory"),
        ("x" * 300, "cannot write: File name too long"),
        ("missing/" + "x" * 300, "cannot write: File name too long"),
        ("/proc/out/net", "cannot write: No such file or directory"),
    ],
)
def test_the_work_does_not_begin(small, capsys, never, name, output, says):
    argv, place = COMMANDS[name]
    never(place)
    rejected(capsys, [*argv, "-o", output], says)
    assert sorted(path.name for path in Path().iterdir()) == ["file", "net.caffemodel", "net.prototxt"]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "export"])
def test_a_disk_that_is_too_small(small, capsys, never, monkeypatch, name):
    argv, place = COMMANDS[name]
    if name != "quantize":  # it asks once it has the model
        never(place)
    monkeypatch.setattr("twofold.files.preflight.shutil.disk_usage", lambda _: type("", (), {"free": 9})())
    rejected(capsys, [*argv, "-o", "out"], "too little space: up to 0.")
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["decompose", "recover", "quantize", "export"])
def test_two_at_work_on_one_output(small, capsys, never, name):
    argv, place = COMMANDS[name]
    never(place)
    first = {"quantize": "net_int8.onnx", "export": "../out"}.get(name, "net.caffemodel")
    with reserved_elsewhere(Path("out") / first):
        rejected(capsys, [*argv, "-o", "out"], "another twofold is at work on")


def reserved_elsewhere(path: Path):
    """A claim as another process has it."""
    from twofold.files import locks

    context = reserved([path.resolve()])

    class Other:
        def __enter__(self):
            context.__enter__()
            self.before = dict(locks._claims)
            locks._claims.clear()

        def __exit__(self, *_):
            locks._claims.update(self.before)
            context.__exit__(None, None, None)

    return Other()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["decompose", *N, "-o", ""], "the value of -o is empty"),
        (["decompose", *N, "--output="], "the value of --output is empty"),
        (["decompose", *N, "-o", "out", "--statistics", ""], "the value of --statistics is empty"),
        (["inspect", ""], "an argument is empty"),
    ],
)
def test_empty_paths(small, capsys, argv, says):
    rejected(capsys, argv, says, 2)
