"""One error for all names that don't fit: whole where they are few, else counts, examples and a file of all."""

import os
import tempfile
from collections.abc import Iterable, Mapping

from segblocks_jax.errors import InputError

_FEW = 12  # That many are all told.
_EXAMPLES = 3  # Of each kind, where they are more.
_LENGTH = 100  # Of an example.


def raise_misfits(
    title: str, problems: Mapping[str, Iterable[str]], lead: str = "", hint: str = ""
) -> None:
    """Raises one ValueError with a line each kind of problem, if there are any.

    Args:
        title: begins the error.
        problems: names by kind.
        lead: is cut from names.
        hint: a line at the end, where there are many problems.
    """
    found = {
        kind: sorted(name.removeprefix(lead) for name in names)
        for kind, names in problems.items()
        if names
    }
    if not found:
        return
    lines = [f"{kind}: {', '.join(names)}" for kind, names in found.items()]
    if sum(map(len, found.values())) > _FEW:
        file = _write(title, found)
        lines = [_line(kind, names) for kind, names in found.items()]
        lines += [hint] * bool(hint) + [f"All of them: {file}"] * bool(file)
    raise InputError("\n".join([f"{title}.", *lines]))


def _line(kind: str, names: list[str]) -> str:
    shown = [n if len(n) <= _LENGTH else f"{n[:_LENGTH]}..." for n in names[:_EXAMPLES]]
    more = len(names) - len(shown)
    return f"{kind}: {', '.join(shown)}" + (f" and {more} more" if more else "")


def _write(title: str, found: Mapping[str, list[str]]) -> str | None:
    """The path of a new file with all names; None where it can't be written."""
    lines = [title, *(f"{kind}: {name}" for kind, names in found.items() for name in names)]
    try:
        descriptor, path = tempfile.mkstemp(prefix="segblocks_misfits_", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except OSError:
        return None
    return path
