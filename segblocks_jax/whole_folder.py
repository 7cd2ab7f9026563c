"""Folders that are written whole: whatever stops a writer, readers find all old files or all new ones."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

from segblocks_jax.errors import TargetExistsError

_PARTIAL = ".segblocks-partial-"
# Within a folder: files that are complete, on their way to replace its own. Readers look here first.
_PENDING = ".segblocks-pending"


@contextlib.contextmanager
def whole_folder(folder: str | os.PathLike[str], replace: bool = False) -> Iterator[pathlib.Path]:
    """Gives a temporary folder to fill; at the end, without an error, it becomes `folder` in one step.

    Where `folder` exists and `replace` is set, it stays, with its mode, as a mount point or the current
    folder, and the new files take the places of those of the same names. A process that is killed on the
    way leaves them where `current_file` finds them, and the next writer moves the rest.

    Args:
        folder: to write, perhaps through a symbolic link; its parents are made.
        replace: whether the folder may exist. The new files lie flat in it then.

    Raises:
        TargetExistsError: the folder exists by the end, and `replace` isn't set.
    """
    folder = pathlib.Path(os.path.realpath(folder))
    inside = replace and folder.is_dir()
    with partial_folder(folder if inside else folder.parent) as fresh:
        yield fresh
        if replace and folder.is_dir():
            _replace_files(folder, fresh)
            return
        try:
            fresh.rename(folder)
        except OSError as error:
            if not folder.is_dir():
                raise
            raise TargetExistsError(
                f"{folder}: another process has written it meanwhile"
            ) from error


@contextlib.contextmanager
def partial_folder(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder in `place`, removed at the end; by the next call, where its process is killed."""
    place.mkdir(parents=True, exist_ok=True)
    folder = place / f"{_PARTIAL}{uuid.uuid4().hex}"
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as others:
            _lock(others, place)
            _remove_leftovers(place)
            folder.mkdir()
            _lock(stack, folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def current_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the file of a folder is that a `whole_folder` with `replace` wrote."""
    pending = folder / _PENDING / name
    return pending if pending.exists() else folder / name


def is_own(name: str) -> bool:
    """Whether an entry of a folder is one of this module's temporary folders."""
    return name == _PENDING or name.startswith(_PARTIAL)


def _replace_files(folder: pathlib.Path, fresh: pathlib.Path) -> None:
    for file in fresh.iterdir():
        with contextlib.suppress(OSError):
            shutil.copymode(folder / file.name, file)
    with contextlib.ExitStack() as stack:
        _lock(stack, folder)
        _move_pending(folder)
        fresh.rename(folder / _PENDING)
        _move_pending(folder)


def _move_pending(folder: pathlib.Path) -> None:
    pending = folder / _PENDING
    if pending.is_dir():
        for file in pending.iterdir():
            file.replace(folder / file.name)
        pending.rmdir()


def _remove_leftovers(place: pathlib.Path) -> None:
    for folder in place.glob(f"{_PARTIAL}*"):
        # The lock of a process that lives is held; where nothing can be locked, nothing is removed.
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(_locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB))
            shutil.rmtree(folder)


def _lock(stack: contextlib.ExitStack, folder: pathlib.Path) -> None:
    with contextlib.suppress(OSError):  # Some network file systems have no locks.
        stack.enter_context(_locked(folder, fcntl.LOCK_EX))


@contextlib.contextmanager
def _locked(folder: pathlib.Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
