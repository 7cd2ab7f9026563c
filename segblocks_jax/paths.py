"""Paths as people write them, and folders that have to be writable."""

import os
import pathlib
import re
import tempfile

from segblocks_jax.errors import InputError, UnwritableError


def expand(path: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute path that a shell would make of `path`: `~`, `~user`, `$NAME` and `${NAME}` expanded.

    It names the same file after the process has changed its folder. Symbolic links stay as they are.

    Raises:
        InputError: the path is empty, or begins with a variable that is not set or a folder of no user.
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
    """The expanded path of a folder in which files can be written, or that can be made; makes nothing.

    Raises:
        UnwritableError: it can't be written; the text says what is in the way.
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
