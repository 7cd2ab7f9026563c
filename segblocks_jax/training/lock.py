"""One process at a time in a folder, on one host or several that share it."""

import contextlib
import fcntl
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

BEAT = 5.0
"""Seconds between two signs of life of whoever holds a lock."""


@contextlib.contextmanager
def lock(folder: pathlib.Path, wait: bool = False, name: str = "lock") -> Iterator[bool]:
    """Whether this process alone may work in a folder, made if missing; with `wait`, only returns when it may.

    The kernel frees the lock of a process that ends, however it ends. For file systems that keep locks
    from other hosts, the holder renews a line in the lock file every `BEAT` seconds: a line that is not
    renewed for three of them is that of a process that was killed. `name` is the lock file's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not (mine := _take(file)) and wait:
            time.sleep(min(BEAT, 0.2))
        if not mine:
            yield False
            return
        os.truncate(file, 0)
        _sign(file)
        ended = threading.Event()
        signing = threading.Thread(target=_keep_signing, args=(file, ended), daemon=True)
        signing.start()
        try:
            yield True
        finally:
            ended.set()
            signing.join()
            os.truncate(file, 0)
    finally:
        os.close(file)


def holder(folder: pathlib.Path) -> str:
    """Who holds the lock of a folder, in words."""
    host, process, *_ = [*(folder / "lock").read_text().split(), "?", "?"]
    return f"process {process} on {host}"


def _take(file: int) -> bool:
    kernel = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # A file system without locks.
        kernel = False
    before = os.pread(file, 1000, 0)
    here = f"{socket.gethostname()} ".encode()
    if not before or (kernel and before.startswith(here)):
        return True
    time.sleep(3 * BEAT)
    if os.pread(file, 1000, 0) == before:
        return True
    if kernel:
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _sign(file: int) -> None:
    """Writes who holds the lock and when, in one piece of one length."""
    line = f"{socket.gethostname()} {os.getpid()} {time.time():.3f}\n"
    with contextlib.suppress(OSError):  # On a full disk the kernel's lock still holds.
        os.pwrite(file, line.encode(), 0)
        os.fsync(file)


def _keep_signing(file: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        _sign(file)
