"""A folder per class: ``SPLIT/CLASS/*.jpg``, as ImageNet is unpacked, and any set of your own."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from segblocks_jax.data.classification.items import Files
from segblocks_jax.errors import InputError, MissingFileError

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
_SYNSETS = ("LOC_synset_mapping.txt", "synset_words.txt")


def classes_in(folder: pathlib.Path) -> tuple[str, ...]:
    """Names of the folders of the classes in the folder of a split, sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no folders, or images beside them.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder; expected one folder a class in it")
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    loose = [e.name for e in visible if e.name.lower().endswith(SUFFIXES) and e.is_file()]
    if loose:
        raise InputError(
            f"{folder}: {len(loose)} images, such as {min(loose)}, lie beside the folders of the classes; move each"
            " into the folder of its class"
        )
    found = sorted(entry.name for entry in visible if entry.is_dir())
    if not found:
        raise InputError(f"{folder}: holds no folders; expected one a class")
    return tuple(found)


def scan(folder: pathlib.Path, classes: Sequence[str]) -> Files:
    """All images that lie in the folders of the classes, sorted; labels follow the order of `classes`.

    Raises:
        FileNotFoundError: the folder, or that of a class, isn't there.
        ValueError: a class has no images, or a folder is of no class; or as `classes_in`.
    """
    found = classes_in(folder)
    missing, more = (sorted(set(a) - set(b)) for a, b in ((classes, found), (found, classes)))
    if missing:
        raise MissingFileError(
            f"{folder}: {len(missing)} of {len(classes)} classes have no folder, such as"
            f" {', '.join(missing[:5])}; unpack the data set completely"
        )
    if more:
        raise InputError(
            f"{folder}: {len(more)} folders are of no class, such as {', '.join(more[:5])}; move them away"
        )
    files: list[str] = []
    labels: list[np.ndarray] = []
    for label, name in enumerate(classes):
        own = sorted(
            file
            for file in os.listdir(folder / name)
            if file.lower().endswith(SUFFIXES) and not file.startswith(".")
        )
        if not own:
            raise InputError(
                f"{folder / name}: holds no image ({', '.join(SUFFIXES)}); unpack the data set completely"
            )
        files += [f"{name}/{file}" for file in own]
        labels.append(np.full(len(own), label, np.int32))
    return Files(folder, tuple(files), np.concatenate(labels))


def synset_names(root: pathlib.Path, synsets: Sequence[str]) -> tuple[str, ...]:
    """ImageNet's classes in words, from a list beside the data if there is one; else the synsets themselves."""
    file = next((root / name for name in _SYNSETS if (root / name).is_file()), None)
    if file is None:
        return tuple(synsets)
    lines = (line.partition(" ") for line in file.read_text(encoding="utf-8").splitlines())
    words = {synset: text.partition(",")[0].strip() for synset, _, text in lines}
    return tuple(words.get(synset) or synset for synset in synsets)
