"""Memory that stays with the process while networks run."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from twofold.calibration.memory import _mallopt


class Counts(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
            "keepcost",
        )
    )  # fmt: skip


def asked_of_the_system() -> bool:
    """Whether a large array is memory that the system maps for it alone."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = Counts
    before = library.mallinfo2().hblks
    array = np.ones(96 << 20, np.uint8)
    return library.mallinfo2().hblks > before and array.any()


glibc = pytest.mark.skipif(
    _mallopt() is None or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="no glibc, or it is tuned"
)


def run(code: str, **environment: str) -> None:
    """Run in a process of its own: what a heap has free depends on all that was done before."""
    start = (
        "import threading\n"
        "from tests.calibration.test_memory import asked_of_the_system\n"
        "from twofold.calibration.memory import memory_kept\n"
    )
    subprocess.run([sys.executable, "-c", start + code], check=True, env={"PYTHONPATH": ".", **environment})


@glibc
def test_arrays_are_asked_of_the_system_outside_alone():
    run("""
def within():
    with memory_kept():
        pass

assert asked_of_the_system()
with memory_kept():
    assert not asked_of_the_system()
    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    assert not asked_of_the_system()  # the other's end is not ours
assert asked_of_the_system()
try:
    with memory_kept():
        raise KeyError
except KeyError:
    assert asked_of_the_system()
""")


@glibc
@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "262144"), ("GLIBC_TUNABLES", "glibc.malloc.perturb=0")],
)
def test_what_the_user_set_is_left_alone(name, value):
    run("with memory_kept():\n    assert asked_of_the_system()", **{name: value})
