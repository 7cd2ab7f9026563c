"""Splits by list files: a line names an image and its label, or both at once."""

import dataclasses
import pathlib

from segblocks_jax.data.dataset import Folder
from segblocks_jax.data.store import File, Store
from segblocks_jax.errors import InputError, MissingFileError
from segblocks_jax.paths import expand


def place(path: str, folder: str = "") -> str:
    """A path as stores take it: below `folder` of the data set, or absolute, with `~` and variables expanded."""
    below = pathlib.PurePosixPath(folder, str(expand(path)) if path[:1] in ("~", "$") else path)
    return "" if below == pathlib.PurePosixPath() else str(below)


def read_list(store: Store, path: str, images: Folder, labels: Folder) -> tuple[Folder, Folder]:
    """The folders of images and labels with the files that the lines of a list name.

    A line is "IMAGE LABEL", separated by a tab or, without one, by spaces, or a name of both. Names are paths below
    the folders, or absolute; suffixes may be left out. Empty lines and those that begin with # don't count.

    Raises:
        FileNotFoundError: the list or a file that it names isn't there; tells the first ones and how many.
        ValueError: a line is something else, or names an image again.
    """
    file = store.file(path)
    if file is None:
        raise MissingFileError(f"{store.describe(path)}: no such list. Nothing was written.")
    found: tuple[dict[str, File], dict[str, File]] = ({}, {})
    missing, lines = [], dict[str, int]()
    for number, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        names = [part.strip() for part in (line.split("\t") if "\t" in line else line.split())]
        if len(names) > 2:
            raise InputError(
                f"{file.where}: line {number} is {line.strip()!r}; expected an image and its label, separated by"
                " a tab where a name has spaces, or one name for both. Nothing was written."
            )
        key = _without_suffix(names[0], images)
        if key in lines:
            raise InputError(
                f"{file.where}: line {number} names {key!r} again, after line {lines[key]}. Nothing was written."
            )
        lines[key] = number
        for files, folder, name in zip(found, (images, labels), (names[0], names[-1]), strict=True):
            named = _find(store, folder, name)
            if named is None:
                missing.append(f"line {number}: {store.root / place(name, folder.path)}")
            else:
                files[key] = named
    if not lines:
        raise InputError(f"{file.where}: names no file. Nothing was written.")
    if missing:
        more = f", and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise MissingFileError(
            f"{file.where}: {len(missing)} of the files that it names aren't there: "
            f"{', '.join(missing[:5])}{more}. Nothing was written."
        )
    return dataclasses.replace(images, files=found[0]), dataclasses.replace(labels, files=found[1])


def _text(file: File) -> str:
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file.where}: is no text in UTF-8 ({error})") from error


def _find(store: Store, folder: Folder, name: str) -> File | None:
    path = place(name, folder.path)
    files = (store.file(path + ending) for ending in ("", *folder.endings))
    return next((file for file in files if file is not None), None)


def _without_suffix(name: str, folder: Folder) -> str:
    ending = next((e for e in folder.endings if name.lower().endswith(e.lower())), "")
    return name[: len(name) - len(ending)]
