"""Progress bars: what long work shows on a terminal, and nothing anywhere else."""

from __future__ import annotations

import sys

import pytest
from tests.small import write

import twofold
from twofold import notebook, progress
from twofold.cli import main
from twofold.progress import meter, track


class Recorder:
    """Stands in for rich's `Progress`, and keeps what it was told."""

    def __init__(self) -> None:
        self.started = self.stopped = 0
        self.tasks: dict[str, tuple[int | None, int]] = {}

    def start(self) -> None:
        self.started += 1

    def stop(self) -> None:
        self.stopped += 1

    def add_task(self, description: str, total: int | None) -> str:
        self.tasks[description] = (total, 0)
        return description

    def advance(self, task: str) -> None:
        total, done = self.tasks[task]
        self.tasks[task] = (total, done + 1)

    def remove_task(self, task: str) -> None:
        assert task in self.tasks


@pytest.fixture
def shown(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "_new_progress", lambda: recorder)
    return recorder


def test_every_stage_of_a_decomposition_shows(tmp_path, shown):
    model = twofold.load(*write(tmp_path))
    twofold.decompose(model, ranks={"two": 8}, no_data=True).save(tmp_path / "out")
    for stage in (
        "factoring layers", "finding AMCT's ranks", "listing candidates", "computing factors",
        "hashing net.caffemodel", "writing weights", "checking what was written",
    ):  # fmt: skip
        total, done = shown.tasks[stage]
        assert done == total, stage
    assert shown.started == shown.stopped > 0


def test_nested_loops_share_a_display_that_stops_on_errors(shown):
    def work() -> None:
        for _ in track(range(3), "outer"):
            for i in track(iter([1, 0]), "inner", total=2):
                assert 1 / i

    with pytest.raises(ZeroDivisionError):
        work()
    assert shown.tasks == {"outer": (3, 0), "inner": (2, 1)}
    assert (shown.started, shown.stopped) == (1, 1)


class Clock:
    """A clock that only tests advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    token = progress.LINES.set(True)
    yield found
    progress.LINES.reset(token)


def test_without_a_terminal_a_stage_that_lasts_has_a_line_and_one_a_minute(clock, capsys):
    for _ in track(range(200), "working"):
        clock.now += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"working: {second} of 200, {second} s" for second in (5, 65, 125, 185)]
    for _ in track(iter(range(4)), "short"):
        clock.now += 1
    assert capsys.readouterr().err == ""
    for _ in track(iter(range(2)), "unknown"):
        clock.now += 4
    assert capsys.readouterr().err == "unknown: 2, 8 s\n"
    with meter("training", 10, 20) as told:
        for step in range(10):
            clock.now += 3
            told(f"loss {step}")
    assert capsys.readouterr().err == "training: 12 of 20, loss 1, 6 s\n"


def test_lines_are_for_the_command_line_alone(clock, capsys):
    progress.LINES.set(False)
    for _ in track(range(9), "working"):
        clock.now += 9
    with meter("training", 0, 9) as told:
        clock.now += 9
        told("loss")
    assert capsys.readouterr().err == ""


def test_nothing_shows_without_a_terminal(monkeypatch):
    monkeypatch.setattr(progress, "_new_progress", lambda: pytest.fail("a bar without a terminal"))
    assert list(track([1, 2], "quiet")) == [1, 2]


def test_the_command_line_leaves_nothing_for_what_its_process_does_next():
    assert not progress.LINES.get()
    assert main(["--version"]) == 0
    assert not progress.LINES.get()


def test_in_python_lines_and_notes_go_to_the_log(monkeypatch, caplog, capsys):
    monkeypatch.setattr(progress, "_QUIET", 0.0)
    list(track(range(2), "counting"))
    progress.note("unheard")
    assert not caplog.messages  # as long as nobody asks
    with caplog.at_level("INFO", logger="twofold"):
        list(track(range(2), "counting"))
        progress.note("a net")
    assert [line.split(",")[0] for line in caplog.messages] == ["counting: 1 of 2", "note: a net"]
    assert capsys.readouterr() == ("", "")


class Cell:
    """Stands in for a display of IPython."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, html) -> None:
        self.shown.append(html.data)


def test_a_notebook_shows_bars_and_keeps_none(monkeypatch):
    display = pytest.importorskip("IPython.display")
    cell = Cell()
    monkeypatch.setattr(display, "display", lambda html, display_id: cell)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(notebook, "_PAUSE", 0)
    for _ in track(["a", "b"], "factoring <layers>"):
        for _ in track(iter("xy"), "reading", total=None):
            pass
    with meter("training", 3, 5) as tell:
        tell("loss 0.5")
    clock = iter((0.0, 100.0, 100.0, 100.0))
    bars = notebook.Bars()
    with pytest.MonkeyPatch.context() as patch, bars:
        patch.setattr(notebook.time, "monotonic", lambda: next(clock, 100.0))
        bars.advance(bars.add_task("resumed", 10, completed=8))
    text = "\n".join(cell.shown)
    assert "resumed: 9 of 10, 100 s, about 100 s left" in text  # what an earlier run did says nothing
    assert (
        '<progress value="1" max="2"></progress> factoring &lt;layers&gt;: 1 of 2, 0 s, about 0 s left'
        in text
    )
    assert "<progress></progress> reading: 2, 0 s" in text  # below the other, of unknown length
    assert '<progress value="4" max="5"></progress> training, loss 0.5: 4 of 5' in text
    assert cell.shown[-1] == ""


def test_what_is_a_notebook(monkeypatch):
    class ZMQInteractiveShell:
        pass

    class TerminalInteractiveShell:
        pass

    class IPython:
        shell: object = None

        @classmethod
        def get_ipython(cls):
            return cls.shell

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    assert not notebook.in_notebook()
    IPython.shell = TerminalInteractiveShell()
    assert not notebook.in_notebook()
    IPython.shell = ZMQInteractiveShell()
    assert notebook.in_notebook()
