"""Paths as people write them."""

import os
import pathlib
import re

from segblocks_jax.errors import InvalidInputError


def expand(path: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute path that a shell would make of `path`: `~`, `~user`, `$NAME` and `${NAME}` expanded.

    It names the same file after the process has changed its folder. Symbolic links stay as they are.

    Raises:
        InvalidInputError: the path is empty, or begins with a variable that is not set.
    """
    text = os.fspath(path)
    if not text:
        raise InvalidInputError(
            "a path is empty; expected a file or folder (was a variable not set?)"
        )
    expanded = os.path.expanduser(os.path.expandvars(text))
    unset = re.match(r"\$(\w+|\{\w+\})", expanded)
    if unset and not os.path.lexists(expanded.partition("/")[0]):
        raise InvalidInputError(f"{text}: the variable {unset[0]} is not set")
    return pathlib.Path(expanded).absolute()
