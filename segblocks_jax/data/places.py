"""Where data sets lie, and where their prepared records and what is known of downloads go."""

import os
import pathlib
import stat
from typing import Any

from segblocks_jax.data.datasets import DATASETS
from segblocks_jax.errors import InputError
from segblocks_jax.paths import expand

DATA_DIR_VARIABLE = "SEGBLOCKS_DATA_DIR"


def find_root(name: str, data_dir: str | os.PathLike | None, scenes: Any = None) -> pathlib.Path:
    """The data set's own folder, below `data_dir` or the environment's choice.

    Raises:
        ValueError: neither says where.
    """
    dataset = DATASETS[name]
    data_dir = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if data_dir is None and dataset.generate is None:
        raise InputError(
            f"open_dataset({name!r}): where is it? Pass data_dir=... or set {DATA_DIR_VARIABLE} to "
            f"the folder that holds {dataset.expected}"
        )
    parent = expand(data_dir) if data_dir else cache()
    if dataset.generate is not None:
        return dataset.generate(parent, scenes)
    # Editions of a data set may share its folder: "cityscapes_coarse" lies in "cityscapes" too.
    own = (parent / folder for folder in (name, dataset.family))
    return next((folder for folder in own if folder.is_dir()), parent)


def prepared_root(root: pathlib.Path, prepared_dir: str | os.PathLike | None) -> pathlib.Path:
    """The folder of prepared records: `prepared_dir`, else in the data set's folder, else in the cache."""
    if prepared_dir is not None:
        return expand(prepared_dir)
    # The superuser may write anywhere; a folder without any write permission still means no.
    writable = root.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    return root / "tfds" if writable and os.access(root, os.W_OK) else cache() / "tfds"


def cache() -> pathlib.Path:
    """The package's folder in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return expand(base) / "segblocks_jax"
