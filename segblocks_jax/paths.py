"""Paths as people write them, and folders that are written whole.

Whatever stops a writer, readers find all old files or all new ones.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator

from segblocks_jax.errors import InputError, TargetExistsError, UnwritableError


def expand(path: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute path that a shell would make of `path`: `~`, `~user`, `$NAME` and `${NAME}` expanded.

    It names the same file after the process has changed its folder; symbolic links stay. Raises InputError where
    the path is empty, or begins with a variable that is not set or a folder of no user.
    """
    text = os.fspath(path)
    if not text:
        raise InputError("a path is empty; expected a file or folder (was a variable not set?)")
    expanded = os.path.expanduser(os.path.expandvars(text))
    unset = re.match(r"\$(\w+|\{\w+\})", expanded)
    if unset and not os.path.lexists(expanded.partition("/")[0]):
        raise InputError(f"{text}: the variable {unset[0]} is not set")
    user, slash, _ = expanded.partition("/")
    if user.startswith("~") and slash and not os.path.lexists(user):
        raise InputError(f"{text}: there is no user {user[1:]}; write ./~ for a name with ~")
    return pathlib.Path(expanded).absolute()


def check_writable(folder: str | os.PathLike[str]) -> pathlib.Path:
    """The expanded path of a folder that can be written or made; makes nothing.

    Raises UnwritableError, which says what is in the way.
    """
    folder = expand(folder)
    place = folder
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise UnwritableError(
            f"{folder}: can't write here ({place}: {error.strerror}); give another folder"
        ) from error
    return folder


_PARTIAL = ".segblocks-partial-"
# Within a folder: files that are complete, on their way to replace its own. Readers look here first.
_PENDING = ".segblocks-pending"


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary file to write; at the end, without an error, it becomes `path` in one step.

    Makes folders as needed. The file is hidden; of a process that is killed it stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield file
        file.replace(path)
    finally:
        file.unlink(missing_ok=True)


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
