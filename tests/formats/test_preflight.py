"""What cannot be written is found before the work, and two commands never work on one file."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from twofold.errors import OptionError, OutputError
from twofold.files import locks
from twofold.files import preflight as module
from twofold.files.scratch import scratch_folder
from twofold.formats.base import commit, output_path, preflight, recover, reserved


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".twofold-*"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("n" * 300, "File name too long"),
        ("missing/" + "n" * 300, "File name too long"),
        ("/".join(["folder"] * 700), "File name too long"),
        ("file/out", "Not a directory"),
        ("folder", "it is a folder"),
        ("pipe", "it is not a regular file"),
        ("loop/out", "symbolic links|Not a directory"),
        ("zero\0byte", "null"),
    ],
)
def test_names_that_cannot_be_written(tmp_path, name, says):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match=says):
        preflight([tmp_path / name])
    with pytest.raises(OutputError, match=says), reserved([tmp_path / name]):
        pytest.fail("the work began")
    assert hidden(tmp_path) == []


def test_a_folder_that_cannot_be_written():
    with pytest.raises(
        OutputError, match=r"^/proc/made/net\.prototxt: cannot write: .*; nothing was changed$"
    ):
        preflight([Path("/proc/made/net.prototxt")])


def test_a_working_directory_that_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(OutputError, match=r"^out: cannot write: No such file"):
        preflight([Path("out")])
    with pytest.raises(OutputError, match=r"^out: cannot write: No such file"):
        commit({Path("out"): lambda _: None}, force=True)
    monkeypatch.chdir(tmp_path)


def test_too_little_space(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    preflight([tmp_path / "a"], sizes=[600, 400])
    with pytest.raises(OutputError, match=r"out/a: too little space: up to 0\.0012 MB .* 0\.001 MB are free"):
        preflight([tmp_path / "out" / "a"], sizes=[600, 600])


def test_a_limit_on_the_size_of_files(tmp_path):
    """As `ulimit -f` sets it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        preflight([tmp_path / "a"], sizes=[9_000, 9_000])
        with pytest.raises(OutputError, match="a: cannot write: File too large"):
            preflight([tmp_path / "a"], sizes=[11_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert hidden(tmp_path) == []


def test_empty_paths():
    for given in ("", "a\0b"):
        with pytest.raises(OptionError, match="the folder: the path"):
            output_path(given, "the folder")
    assert output_path(".") == Path()


def test_a_folder_is_made_for_the_work_and_goes_where_nothing_came(tmp_path):
    out = tmp_path / "some" / "out"
    with reserved([out / "net"]):
        assert hidden(out) == [locks.claim_file(out / "net").name]
    assert list(tmp_path.iterdir()) == []
    with reserved([out / "net"]):
        commit({out / "net": lambda stream: stream.write(b"x")}, force=False)
    assert [path.name for path in out.iterdir()] == ["net"]


WORK = textwrap.dedent("""
    import sys
    from pathlib import Path
    from twofold.errors import OutputError
    from twofold.formats.base import reserved
    try:
        with reserved([Path(sys.argv[1])]):
            print("at work", flush=True)
            sys.stdin.readline()
    except OutputError as error:
        sys.exit(str(error))
""")


def test_two_processes_at_work_on_one_file(tmp_path):
    """The second is rejected at once; after a kill the next one may, and clears up."""
    command = [sys.executable, "-c", WORK, str(tmp_path / "out" / "net")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first:
        assert first.stdout.readline() == "at work\n"
        with (
            pytest.raises(OutputError, match="out: another twofold is at work on net there"),
            reserved([tmp_path / "out" / "net"]),
        ):
            pytest.fail("the work began")
        with reserved([tmp_path / "out" / "other"]):
            recover(tmp_path / "out")  # as a load from there does: it leaves a living claim alone
        assert hidden(tmp_path) == [locks.claim_file(Path("net")).name]
        first.kill()
        first.wait()
    assert hidden(tmp_path) != []
    with reserved([tmp_path / "out" / "net"]), reserved([tmp_path / "out" / "net"]):
        pass  # a command and a function that it calls
    assert hidden(tmp_path) == []


def test_a_link_planted_in_the_place_of_a_claim(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    place = locks.claim_file(tmp_path / "net")
    place.symlink_to(victim)
    with reserved([tmp_path / "net"]):
        pass
    assert victim.read_bytes() == b"mine"
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("missing", [["fcntl"], ["fcntl", "msvcrt"]])
def test_systems_without_these_locks(tmp_path, missing):
    """Everything imports and writes; on Windows locks are those of `msvcrt`, here the ones of a stand-in."""
    code = textwrap.dedent("""
        import errno, sys, types
        from pathlib import Path
        missing, folder = sys.argv[1].split(","), Path(sys.argv[2])
        for name in missing:
            sys.modules[name] = None
        import twofold
        from twofold.files import locks
        from twofold.formats.base import commit, reserved
        taken = []
        if "msvcrt" not in missing:
            def locking(descriptor, mode, size):
                if taken:
                    raise OSError(errno.EACCES, "held")
                taken.append(descriptor)
            sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
        commit({folder / "a": lambda stream: stream.write(b"x")}, force=False)
        if "msvcrt" not in missing:
            assert len(taken) == 1, taken
            with open(folder / "a") as file:
                try:
                    locks.take(file.fileno(), wait=False)
                except BlockingIOError:
                    print("held")
        else:
            with reserved([folder / "b"]):
                print("held")
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, ",".join(missing), tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "held\n"), done.stderr
    assert (tmp_path / "a").read_bytes() == b"x"


def test_scratch_folders_of_the_dead_go(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "import os; from twofold.files.scratch import scratch_folder; "
    code += "held = scratch_folder(); held.__enter__(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    (dead,) = tmp_path.iterdir()
    kept = [tmp_path / name for name in ("twofold-notes", f"twofold-{os.getpid()}-mine", "twofold-link-x")]
    kept[0].mkdir()
    kept[1].mkdir()
    kept[2].symlink_to(kept[0])
    with scratch_folder() as folder:
        assert not dead.exists()
        assert folder.parent == tmp_path
        with scratch_folder() as inner:  # as of a library that is called meanwhile
            assert inner.parent == folder
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_recovery_leaves_what_a_preflight_is_trying_alone(tmp_path, monkeypatch):
    """Processes that train together recover the folder that the first one asks about."""
    monkeypatch.setattr("twofold.files.preflight.os.ftruncate", lambda *_: recover(tmp_path))
    preflight([tmp_path / "file"], sizes=[9])
    assert not list(tmp_path.iterdir())


def test_what_a_kill_left_above_the_folder_that_is_written_goes(tmp_path):
    """The try was made above, since the folder was missing; no commit will ever look there."""
    (tmp_path / f".twofold-{'ab' * 8}-new0").write_bytes(b"")
    (tmp_path / ".twofold-notes").write_bytes(b"the user's")
    preflight([tmp_path / "out" / "net.prototxt"])
    assert os.listdir(tmp_path) == [".twofold-notes"]
