"""Several files together or not at all, after an error, a signal or a kill at every single step."""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from twofold.errors import OutputError, TwofoldError
from twofold.files import atomic, locks, recovery
from twofold.formats.base import commit, recover, reject_existing

OLD = {"a.prototxt": b"old a", "b.caffemodel": b"old b"}
NEW = {"a.prototxt": b"new a", "b.caffemodel": b"new b" * 1000}


def write(content):
    return lambda stream: stream.write(content)


def files(folder, contents=NEW):
    return {folder / name: write(content) for name, content in contents.items()}


def state(*folders):
    """Visible and hidden content of folders."""
    return {path.name: path.read_bytes() for folder in folders for path in sorted(folder.iterdir())}


def fill(folder, contents=OLD):
    folder.mkdir(exist_ok=True, parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def test_files_appear_and_nothing_else(tmp_path):
    commit(files(tmp_path), force=False)
    assert state(tmp_path) == NEW


def test_one_file_and_no_file(tmp_path):
    commit({}, force=False)
    commit({tmp_path / "only": write(b"x")}, force=False)
    assert state(tmp_path) == {"only": b"x"}


def test_existing_files_need_force(tmp_path):
    fill(tmp_path, {"b.caffemodel": b"old b"})
    with pytest.raises(
        OutputError, match=r"b\.caffemodel: exists already and is not overwritten without force=True"
    ):
        commit(files(tmp_path), force=False)
    assert state(tmp_path) == {"b.caffemodel": b"old b"}
    commit(files(tmp_path), force=True)
    assert state(tmp_path) == NEW


def test_existing_files_with_the_same_content_are_no_obstacle(tmp_path):
    fill(tmp_path, {"b.caffemodel": NEW["b.caffemodel"]})
    commit(files(tmp_path), force=False)
    assert state(tmp_path) == NEW
    commit(files(tmp_path), force=False)
    assert state(tmp_path) == NEW
    same_size = bytes(reversed(NEW["b.caffemodel"]))
    fill(tmp_path, {"b.caffemodel": same_size})
    with pytest.raises(OutputError, match=r"^[^,]*b\.caffemodel: exists already"):
        commit(files(tmp_path), force=False)
    assert state(tmp_path) == {**NEW, "b.caffemodel": same_size}


def test_existing_files_can_be_refused_before_any_work(tmp_path):
    fill(tmp_path, {"b.caffemodel": NEW["b.caffemodel"]})
    reject_existing([tmp_path / "a", tmp_path / "missing" / "b.caffemodel"])
    with pytest.raises(OutputError, match=r"^[^,]*b\.caffemodel: exists already"):
        reject_existing([tmp_path / "a", tmp_path / "b.caffemodel"])


def test_folders_are_made_and_removed_again(tmp_path):
    target = tmp_path / "some" / "deep" / "folder"

    def refuse(_):
        raise TwofoldError("wrong")

    with pytest.raises(TwofoldError, match="wrong"):
        commit(files(target), force=False, check=refuse)
    assert state(tmp_path) == {}
    commit(files(target), force=False)
    assert state(target) == NEW


def test_check_sees_the_content_before_it_is_in_place(tmp_path):
    fill(tmp_path)
    seen = {}

    def check(places):
        for target, place in places.items():
            seen[target] = place.read_bytes()
            assert place.suffix == target.suffix
            assert recover(place.parent) == ()  # as a load does; it must leave a living commit alone
        assert {n: c for n, c in state(tmp_path).items() if n in OLD} == OLD

    commit(files(tmp_path), force=True, check=check)
    assert seen == {tmp_path / name: content for name, content in NEW.items()}
    assert state(tmp_path) == NEW


@pytest.mark.parametrize("error", [TwofoldError("bad"), KeyboardInterrupt(), ZeroDivisionError()])
def test_whatever_is_raised_leaves_everything_as_it_was(tmp_path, error):
    fill(tmp_path)

    def raising(*_):
        raise error

    with pytest.raises(type(error)):
        commit(files(tmp_path), force=True, check=raising)
    assert state(tmp_path) == OLD
    with pytest.raises(type(error)):
        commit({**files(tmp_path), tmp_path / "c": raising}, force=True)
    assert state(tmp_path) == OLD


def test_mapped_input_may_be_overwritten(tmp_path):
    """A result over its own input: the writer reads the old file through a map while the new one grows."""
    path = tmp_path / "b.caffemodel"
    path.write_bytes(b"0123456789" * 1000)
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    commit({path: lambda stream: stream.write(view[5:])}, force=True)
    assert path.read_bytes() == bytes(view)[5:]


def test_symbolic_links_stay(tmp_path):
    fill(tmp_path / "store", {"real": b"old"})
    fill(tmp_path / "out", {})
    (tmp_path / "out" / "link").symlink_to("../store/real")
    (tmp_path / "out" / "dangling").symlink_to("../store/not-yet")
    with pytest.raises(OutputError, match="link: exists already"):
        commit({tmp_path / "out" / "link": write(b"new")}, force=False)
    commit({tmp_path / "out" / name: write(name.encode()) for name in ("link", "dangling")}, force=True)
    assert state(tmp_path / "store") == {"not-yet": b"dangling", "real": b"link"}
    assert (tmp_path / "out" / "link").is_symlink()


def test_permissions_stay(tmp_path):
    fill(tmp_path)
    (tmp_path / "a.prototxt").chmod(0o640)
    commit({**files(tmp_path), tmp_path / "new": write(b"")}, force=True)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a.prototxt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~umask


def test_targets_that_cannot_be_files(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder: cannot write there, it is a folder"):
        commit({tmp_path / "folder": write(b"")}, force=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe: cannot write there, it is not a regular file"):
        commit({tmp_path / "pipe": write(b"")}, force=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Not a directory"):
        commit({tmp_path / "file" / "x": write(b"")}, force=True)
    (tmp_path / "same").symlink_to("file")
    with pytest.raises(OutputError, match="two results cannot be the same file"):
        commit({tmp_path / "file": write(b""), tmp_path / "same": write(b"")}, force=True)


def test_folder_that_cannot_be_written():
    with pytest.raises(OutputError, match=r"^/proc/net\.prototxt: cannot write: .*; nothing was changed$"):
        commit({Path("/proc/net.prototxt"): write(b"")}, force=False)


def test_full_disk(tmp_path):
    fill(tmp_path)

    def full(stream):
        stream.write(b"x" * 100)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(
        OutputError, match=r"b\.caffemodel: cannot write: No space left on device; nothing was changed"
    ):
        commit({**files(tmp_path), tmp_path / "b.caffemodel": full}, force=True)
    assert state(tmp_path) == OLD


def test_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        fill(disk)
        big = {**NEW, "b.caffemodel": b"x" * 200_000}
        with pytest.raises(OutputError, match="No space left on device"):
            commit(files(disk, big), force=True)
        assert state(disk) == OLD
    finally:
        subprocess.run(["umount", disk], check=True)


# An error at every step. The steps are the calls into the operating system that change something.

STEPS = ("mkdir", "open", "fsync", "link", "replace", "unlink", "fchmod")


class Failing:
    """Lets the n-th changing call raise: before it does its work, or after."""

    def __init__(self, monkeypatch, step, error, *, after, only=STEPS):
        self.left, self.error, self.after = step, error, after
        self.hit = ""
        for name in only:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name, original):
        def call(*args, **kwargs):
            self.left -= 1
            if self.left:
                return original(*args, **kwargs)
            self.hit = name
            if self.after:
                original(*args, **kwargs)
            raise self.error

        return call


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("split", [False, True])
def test_an_error_at_every_step(tmp_path, monkeypatch, error, after, split):
    """In one folder and in two; old files in place, and a third that is new."""
    hits = set()
    for step in range(1, 200):
        root = tmp_path / str(step)
        other = root / "other" if split else root
        fill(root, {"a.prototxt": OLD["a.prototxt"]})
        fill(other, {"b.caffemodel": OLD["b.caffemodel"]})
        targets = {
            **files(root, {"a.prototxt": NEW["a.prototxt"]}),
            **files(other, {"b.caffemodel": NEW["b.caffemodel"]}),
        }
        targets[root / "made" / "c"] = write(b"new c")
        with monkeypatch.context() as patch:
            failing = Failing(patch, step, error, after=after)
            try:
                commit(targets, force=True)
                failed = False
            except (OutputError, KeyboardInterrupt):
                failed = True
        finished = not failing.hit
        got = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        b = "other/b.caffemodel" if split else "b.caffemodel"
        old = {"a.prototxt": OLD["a.prototxt"], b: OLD["b.caffemodel"]}
        new = {"a.prototxt": NEW["a.prototxt"], b: NEW["b.caffemodel"], "made/c": b"new c"}
        visible = {name: content for name, content in got.items() if ".twofold-" not in name}
        # Only while hidden files are removed, after the decision, may an error leave the new files.
        assert visible in (old, new), (step, failing.hit)
        if failed and failing.hit != "unlink":
            assert visible == old, (step, failing.hit)
        if not failed:
            assert visible == new, (step, failing.hit)
        if visible == old:
            assert failing.hit in ("unlink", "fsync") or not (root / "made").exists()
        if isinstance(error, KeyboardInterrupt):
            assert got == visible, (step, failing.hit)  # who presses Ctrl-C finds no litter
        for folder in (root, other, root / "made"):
            recover(folder)
        hidden = [p for p in root.rglob(".twofold-*")]
        assert not hidden, (step, failing.hit, hidden)
        hits.add(failing.hit)
        if finished:
            break
    assert finished
    assert hits >= {"", "mkdir", "open", "fsync", "link", "replace", "unlink"}


def test_file_system_without_hard_links(tmp_path, monkeypatch):
    fill(tmp_path)

    def link(*_args, **_kwargs):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    commit(files(tmp_path), force=True)
    assert state(tmp_path) == NEW
    fill(tmp_path)
    for step in range(1, 7):  # the journal, and for each of two files the old one away and the new one in
        with monkeypatch.context() as patch:
            failing = Failing(patch, step, OSError(errno.EIO, "no"), after=False, only=("replace",))
            if step < 6:
                with pytest.raises(OutputError, match="nothing was changed"):
                    commit(files(tmp_path), force=True)
            else:
                commit(files(tmp_path), force=True)
        assert failing.hit == ("replace" if step < 6 else "")
        assert state(tmp_path) == (OLD if step < 6 else NEW)


# A kill at every step. One child imports the package and forks once per step; each step has its folder.

CHILD = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from twofold.formats.base import commit
    root, number, names = Path(sys.argv[1]), getattr(signal, sys.argv[2]), sys.argv[3:]
    def stop_at(step):
        left = step
        def wrap(original):
            def call(*args, **kwargs):
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), number)
                return original(*args, **kwargs)
            return call
        for name in ("mkdir", "open", "fsync", "link", "replace", "unlink", "fchmod"):
            setattr(os, name, wrap(getattr(os, name)))
    for step in range(1, 100):
        targets = [root / str(step) / name for name in names]
        child = os.fork()
        if not child:
            stop_at(step)
            commit({t: (lambda s, t=t: s.write(b"new " + t.name.encode())) for t in targets}, force=True)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            break
        assert os.WTERMSIG(status) == number, status
    print(step)
""")


def stop_at_every_step(root, names, number):
    """Commit `names` in folders 1, 2, ... and end it at the step of that number; the last one ran through."""
    for step in range(1, 100):
        for name in names:
            if name != "new":
                fill((root / str(step) / name).parent, {Path(name).name: b"old " + Path(name).name.encode()})
    command = [sys.executable, "-c", CHILD, root, number, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [root / str(step) for step in range(1, int(done.stdout) + 1)]


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("other", ["", "other/"])
@pytest.mark.parametrize("rescue", ["recover", "commit"])
def test_a_kill_at_every_step(tmp_path, other, rescue):
    names = ["a", f"{other}b", "new"]
    roots = stop_at_every_step(tmp_path, names, "SIGKILL")
    results = []
    for root in roots:
        for folder in {root, root / other}:
            if rescue == "recover":
                recover(folder)
            else:
                commit({folder / "later": write(b"")}, force=False)
                (folder / "later").unlink()
        recover(root)  # whose journal may have waited for the other folder
        results.append(contents(root))
    old = {name: b"old " + name[-1:].encode() for name in names[:2]}
    new = {name: b"new " + Path(name).name.encode() for name in names}
    assert len(results) > 15
    switch = results.index(new)
    assert results == [old] * switch + [new] * (len(results) - switch)
    assert 0 < switch < len(results) - 1


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_a_polite_signal_leaves_no_litter_at_all(tmp_path, number):
    names = ["a", "b", "new"]
    old = {name: b"old " + name.encode() for name in names[:2]}
    new = {name: b"new " + name.encode() for name in names}
    results = [contents(root) for root in stop_at_every_step(tmp_path, names, number)]
    assert len(results) > 15
    assert all(result in (old, new) for result in results)
    assert results[0] == old


def test_handlers_of_the_program_are_respected(tmp_path):
    caught = []
    before = signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
    try:
        commit({tmp_path / "a": lambda s: os.kill(os.getpid(), signal.SIGTERM) or s.write(b"x")}, force=False)
        assert caught == [1]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.getsignal(signal.SIGTERM) is before
    assert state(tmp_path) == {"a": b"x"}


# Recovery


def journal(folder, renames, token="0" * 16, decided_by=None, needed_by=()):
    path = folder / f".twofold-{token}-journal"
    content = {"decided_by": decided_by or path.name, "needed_by": needed_by, "renames": renames}
    path.write_text(json.dumps(content))
    return path


def test_a_journal_cannot_reach_out_of_its_folder(tmp_path):
    """A downloaded folder may hold anything; loading from it must not move files elsewhere."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    folder = tmp_path / "download"
    for target in ("../victim", str(victim), "..", ".", "", "x/../../victim"):
        fill(folder, {f".twofold-{'0' * 16}-new0": b"evil"})
        journal(folder, [[f".twofold-{'0' * 16}-new0", target]])
        assert recover(folder) == ()
        assert victim.read_bytes() == b"mine"
        assert state(folder) == {}
    for source in ("../victim", "keep", f".twofold-{'1' * 16}-new0"):
        fill(folder, {"keep": b"keep"})
        journal(folder, [[source, "moved"]])
        assert recover(folder) == ()
        assert state(folder) == {"keep": b"keep"}
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"decided_by": 1}', '{"renames": [1], "needed_by": [], "decided_by": ""}']
)
def test_a_damaged_journal_decides_nothing(tmp_path, content):
    fill(
        tmp_path,
        {"a": b"old", f".twofold-{'0' * 16}-journal": content.encode(), f".twofold-{'0' * 16}-new0": b"new"},
    )
    assert recover(tmp_path) == ()
    assert state(tmp_path) == {"a": b"old"}


def test_recover_reports_what_it_completed(tmp_path):
    fill(tmp_path, {"a": b"old", f".twofold-{'0' * 16}-new0": b"new", f".twofold-{'0' * 16}-old0": b"old"})
    journal(tmp_path, [[f".twofold-{'0' * 16}-new0", "a"]])
    assert recover(tmp_path) == (tmp_path / "a",)
    assert recover(tmp_path) == ()
    assert state(tmp_path) == {"a": b"new"}


def test_a_decision_waits_for_the_other_folder(tmp_path):
    token = "0" * 16
    first, second = tmp_path / "first", tmp_path / "second"
    fill(first, {f".twofold-{token}-new0": b"new a"})
    fill(second, {f".twofold-{token}-new1": b"new b"})
    name = f".twofold-{token}-journal"
    journal(first, [[f".twofold-{token}-new0", "a"]], needed_by=[f"../second/{name}"])
    journal(second, [[f".twofold-{token}-new1", "b"]], decided_by=f"../first/{name}")
    assert recover(first) == (first / "a",)
    assert (first / name).exists()
    assert recover(second) == (second / "b",)
    assert recover(first) == ()
    assert state(first, second) == {"a": b"new a", "b": b"new b"}


def test_recover_leaves_other_peoples_hidden_files(tmp_path):
    kept = {".twofold-notes": b"1", ".twofold-0000-new0": b"2", ".hidden": b"3"}
    fill(tmp_path, kept)
    recover(tmp_path)
    assert state(tmp_path) == kept
    assert recover(tmp_path / "missing") == ()


def test_recover_that_cannot_write_says_so(tmp_path, monkeypatch):
    fill(tmp_path, {f".twofold-{'0' * 16}-new0": b"new"})
    journal(tmp_path, [[f".twofold-{'0' * 16}-new0", "a"]])

    def replace(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(recovery.os, "replace", replace)
    with pytest.raises(OutputError, match=r"stopped half-way.*Permission denied"):
        recover(tmp_path)


def test_undoing_that_fails_leaves_the_decision(tmp_path, monkeypatch):
    """Two faults: the second rename fails, and so does renaming back. Then the commit is completed later."""
    fill(tmp_path)
    original, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) > 2:  # the journal and the first file
            raise OSError(errno.EIO, "Input/output error")
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(
            OutputError, match="undoing it fails too: Input/output error; the next load or save"
        ):
            commit(files(tmp_path), force=True)
    recover(tmp_path)
    assert state(tmp_path) == NEW


def test_two_commits_in_one_folder_do_not_disturb_each_other(tmp_path, monkeypatch):
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from twofold.formats.base import commit
        def slow(stream):
            print("begun", flush=True)
            sys.stdin.readline()
            stream.write(b"slow")
        commit({Path(sys.argv[1], "slow"): slow}, force=False)
    """)
    take, waited = locks.take, []
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "begun\n"
        assert recover(tmp_path) == ()

        def take_after_the_other(descriptor, *, wait):
            if wait and not waited:
                with pytest.raises(BlockingIOError):
                    take(descriptor, wait=False)
                waited.append(descriptor)
                print("go on", file=child.stdin, flush=True)
            take(descriptor, wait=wait)

        monkeypatch.setattr(locks, "take", take_after_the_other)
        commit({tmp_path / "fast": write(b"fast")}, force=False)
    assert waited
    assert child.returncode == 0
    assert state(tmp_path) == {"fast": b"fast", "slow": b"slow"}


def test_base_is_the_public_place():
    assert (commit, recover) == (atomic.commit, recovery.recover)


def test_contents_are_on_the_disk_before_they_take_their_names(tmp_path, monkeypatch):
    """A rename can survive a loss of power that the content does not."""
    synced, moved = set(), []
    fsync, replace = os.fsync, os.replace

    def note(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def move(source, target):
        moved.append(Path(target).name)
        assert Path(source).stat().st_ino in synced
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", move)
    for contents in ({"one": b"1"}, NEW):
        commit(files(tmp_path, contents), force=False)
    assert {"one", *NEW} <= set(moved)
    assert tmp_path.stat().st_ino in synced  # and so are the names
