"""One process at a time in a folder: kept out while it lives, on this host or another, and not after."""

import os
import subprocess
import sys
import threading
import time

import pytest

from segblocks_jax.training import lock as locking
from segblocks_jax.training.lock import holder, lock


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locking, "BEAT", 0.05)


# Read as a file: the package need not be imported for it.
HOLD = """
import pathlib, runpy, sys, time
with runpy.run_path(sys.argv[1])["lock"](pathlib.Path(sys.argv[2])) as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_kept_out_until_the_first_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, locking.__file__, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "True\n"
            with lock(tmp_path) as mine:
                assert not mine
            assert holder(tmp_path).startswith(f"process {other.pid} on ")
        finally:
            other.kill()
    with lock(tmp_path, wait=True) as mine:
        assert mine
    with lock(tmp_path) as mine:
        assert mine


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path):
    got = []

    def second():
        with lock(tmp_path, wait=True) as mine:
            got.append(mine)

    with lock(tmp_path) as mine:
        assert mine
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.3)
        assert got == []
    waiting.join(10)
    assert got == [True]


@pytest.fixture(params=["not seen", "not there"])
def no_shared_locks(request, monkeypatch):
    """A file system on which the kernel's locks keep nobody out, or that has none."""

    def flock(*_):
        if request.param == "not there":
            raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locking.fcntl, "flock", flock)


def test_a_process_on_another_host_is_kept_out_while_it_gives_signs_of_life(
    tmp_path, monkeypatch, no_shared_locks
):
    here = threading.get_ident()
    monkeypatch.setattr(
        locking.socket, "gethostname", lambda: "here" if threading.get_ident() == here else "there"
    )
    ready, ended = threading.Event(), threading.Event()

    def other_host():
        with lock(tmp_path) as mine:
            assert mine
            ready.set()
            ended.wait(30)

    there = threading.Thread(target=other_host)
    there.start()
    assert ready.wait(10)
    with lock(tmp_path) as mine:
        assert not mine
    assert holder(tmp_path) == f"process {os.getpid()} on there"
    ended.set()
    there.join()
    began = time.monotonic()
    with lock(tmp_path) as mine:  # It ended in good order: nothing to wait for.
        assert mine
    assert time.monotonic() - began < 3 * locking.BEAT


def test_the_line_of_a_host_that_died_is_taken_over(tmp_path, no_shared_locks):
    (tmp_path / "lock").write_text("elsewhere 7 1700000000.000\n")
    with lock(tmp_path) as mine:
        assert mine
        assert "elsewhere" not in holder(tmp_path)
    assert (tmp_path / "lock").read_text() == ""
