"""`open_dataset`: a data set by name, prepared on first use, as a random-access source."""

import contextlib
import dataclasses
import itertools
import operator
import os
import pathlib
import stat
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from segblocks_jax.data.dataset import Dataset
from segblocks_jax.data.datasets import DATASETS
from segblocks_jax.data.folders import Split, check_counts, find_splits
from segblocks_jax.data.normalization import Normalization
from segblocks_jax.data.pipeline import Source
from segblocks_jax.data.reading import DATA_DIR_VARIABLE
from segblocks_jax.data.records import Fingerprint, Index, Records
from segblocks_jax.data.store import Store
from segblocks_jax.data.street_scenes import SceneSet
from segblocks_jax.errors import InputError
from segblocks_jax.paths import expand
from segblocks_jax.tasks.segmentation.labels import LabelTable

ON_ERROR = ("raise", "skip")


def find_root(name: str, data_dir: str | os.PathLike | None, scenes: Any = None) -> pathlib.Path:
    """The data set's own folder, below `data_dir` or the environment's choice; else a ValueError."""
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


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentationSource:
    """One split of a data set, or several, one after the other.

    `source[i]` is {"image": uint8 (h, w, 3), "label": uint8 (h, w) train ids with 255 for ignored
    pixels, "name": str}; items are sorted by name. Pickles, so that worker processes can read.

    Attributes:
        name: the data set, one of `DATASETS`.
        split: such as "train", or "train+train_extra".
        table: classes, colors and the id mapping.
        normalization: mean and standard deviation to normalize with.
        records: the items, with ids as stored.
        sizes: (height, width) of every image, known without decoding any.
        skipped: why items were left out when the data set was prepared, one text each.
    """

    name: str
    split: str
    table: LabelTable
    normalization: Normalization
    records: Source
    sizes: list[tuple[int, int]]
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        import cv2

        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"{self.name} {self.split}: item {position} of {len(self)}")
        record = self.records[position % len(self)]
        return {**record, "label": cv2.LUT(record["label"], self.table.to_train)}


def open_dataset(
    name: str,
    data_dir: str | os.PathLike | None = None,
    split: str = "train",
    prepared_dir: str | os.PathLike | None = None,
    *,
    scenes: SceneSet | None = None,
    on_error: str = "raise",
) -> SegmentationSource:
    """Opens a split; the first time, checks all files and prepares them as TFDS array records.

    Logs a warning if a published data set isn't complete.

    Args:
        name: one of `DATASETS`.
        data_dir: folder of the data set, or one that holds it under its name; by default what the
            environment variable SEGBLOCKS_DATA_DIR says. Street scenes are generated there (by
            default in the user's cache) where they don't exist yet.
        split: "train", "val", "test", for "cityscapes_coarse" also "train_extra"; several with "+".
        prepared_dir: where prepared files go; `tfds` in the data set's folder by default, or the
            user's cache where that is read-only. They are reused as long as names and contents of
            all source files stay the same; contents are compared where time stamps differ.
        scenes: which street scenes, for "street_scenes" only; `SceneSet()` by default.
        on_error: "raise", or "skip" to leave out broken items: logged, counted in `skipped`, and refused
            above 1% of a split.

    Raises:
        ValueError: unknown name or split; a broken or incomplete data set (nothing is written).
        FileNotFoundError: the data set or one of its folders isn't there.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    if scenes is not None and DATASETS[name].generate is None:
        raise InputError(f"scenes= is for 'street_scenes' only, got data set {name!r}")
    if on_error not in ON_ERROR:
        raise InputError(f"open_dataset: on_error is {on_error!r}; expected one of {ON_ERROR}")
    root = find_root(name, data_dir, scenes)
    store = Store(root)
    dataset = DATASETS[name].of(store)
    found = find_splits(dataset, store)
    splits = tuple(split.split("+"))
    for one in splits:
        if one not in found:
            raise InputError(
                f"{root}: {name} has no split {one!r} with labels here, only {', '.join(found)}; it "
                f"would need {dataset.expected}"
            )
    if dataset.normalization is None and "train" not in found:
        raise InputError(
            f"{root}: no split 'train' with labels here, which tells how to normalize; add it, or mean and std in "
            f"{dataset.known_table.name}. Nothing was written."
        )
    for line in check_counts(dataset, found, splits):
        logging.warning("%s in %s is not complete. %s", name, root, line)
    folder = _prepared(dataset, found, root, prepared_root(root, prepared_dir), on_error)
    records = Records(dataset, folder, splits)
    normalization = dataset.normalization or records.index.normalization("train")
    source = SegmentationSource(
        *(name, split, dataset.known_table, normalization),
        *(records, records.sizes, records.skipped),
    )
    _check_content(source, records.index, root, on_error)
    return source


def _check_content(
    source: SegmentationSource, index: Index, root: pathlib.Path, on_error: str
) -> None:
    """Says what is odd about prepared records: items that were left out, ids that look like train ids."""
    if on_error == "raise":
        for text in itertools.chain(*index.skipped.values()):
            raise InputError(text)
    if source.skipped:
        logging.warning(
            "%s %s: %d items were left out", source.name, source.split, len(source.skipped)
        )
    for split in source.split.split("+"):
        if source.table.holds_train_ids(np.asarray(index.pixels[split])):
            logging.warning(
                "%s: the labels of split %s have ids below %d only, and most pixels are ignored. Are they train "
                "ids? Take the files of label ids as published",
                *(root, split, source.table.num_classes),
            )


def _prepared(
    dataset: Dataset,
    found: Mapping[str, Split],
    root: pathlib.Path,
    place: pathlib.Path,
    on_error: str,
) -> pathlib.Path:
    """The folder of records of exactly these files; prepares them where there is none."""
    earlier = sorted(place.glob(f"{dataset.name}-*"))
    now = Fingerprint(found, dataset.recipe, earlier)
    folder = place / f"{dataset.name}-{now.digest}"
    if not folder.is_dir():
        from segblocks_jax.data.builders import prepare

        if earlier:
            logging.warning(
                "%s: its files are not those that %s was prepared from; preparing them",
                *(root, earlier[-1]),
            )
        prepare(dataset, root, folder, now, on_error)
    elif now.renewed:
        with contextlib.suppress(OSError):  # Of others; then they are compared every time.
            now.save(folder)
    return folder


def label_table(name: str, data_dir: str | os.PathLike | None = None) -> LabelTable:
    """The label table of a data set; reads it from the data set's folder where only that knows it.

    Raises FileNotFoundError or ValueError where that folder isn't there.
    """
    table = DATASETS[name].table
    return table or DATASETS[name].of(Store(find_root(name, data_dir))).known_table
