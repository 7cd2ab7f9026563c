"""`open_dataset`: a data set by name, prepared on first use, as a random-access source."""

import dataclasses
import operator
import os
import pathlib
import stat

from absl import logging

from segblocks_jax.data.folders import check_counts, find_splits, fingerprint
from segblocks_jax.data.layouts import LAYOUTS
from segblocks_jax.data.normalization import NORMALIZATION, Normalization
from segblocks_jax.data.pipeline import Source
from segblocks_jax.data.store import Store
from segblocks_jax.data.street_scenes import SceneSet, write
from segblocks_jax.errors import InvalidInputError
from segblocks_jax.paths import expand
from segblocks_jax.tasks.segmentation.camvid_labels import CAMVID_FULL
from segblocks_jax.tasks.segmentation.labels import CAMVID, CITYSCAPES, LabelTable
from segblocks_jax.tasks.segmentation.mapillary_labels import MAPILLARY_V1_2

DATA_DIR_VARIABLE = "SEGBLOCKS_DATA_DIR"
DATASETS = tuple(LAYOUTS)
ON_ERROR = ("raise", "skip")
TABLES = {
    "cityscapes": CITYSCAPES,
    "cityscapes_coarse": CITYSCAPES,
    "street_scenes": CITYSCAPES,
    "camvid": CAMVID,
    "camvid_full": CAMVID_FULL,
    "mapillary": MAPILLARY_V1_2,
}
"""The label table of each data set that needs no file to tell it; see `label_table`."""


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentationSource:
    """One split of a data set, or several, one after the other.

    `source[i]` is {"image": uint8 (h, w, 3), "label": uint8 (h, w) train ids with 255 for ignored
    pixels, "name": str}; items are sorted by name. Pickles, so that worker processes can read.

    Attributes:
        name: the data set, one of `DATASETS`.
        split: such as "train", or "train+train_extra".
        table: classes, colors and the id mapping.
        records: the items, with ids as stored.
        sizes: (height, width) of every image, known without decoding any.
        skipped: why items were left out when the data set was prepared, one text each.
    """

    name: str
    split: str
    table: LabelTable
    records: Source
    sizes: list[tuple[int, int]]
    skipped: list[str]

    @property
    def normalization(self) -> Normalization:
        """Mean and deviation to normalize with."""
        return NORMALIZATION[self.name]

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
            user's cache where that is read-only. They are reused as long as names and sizes of
            all source files stay the same.
        scenes: which street scenes, for "street_scenes" only; `SceneSet()` by default.
        on_error: "raise", or "skip" to leave out broken items: logged, counted in `skipped`, and refused
            above 1% of a split.

    Raises:
        ValueError: unknown name or split; a broken or incomplete data set (nothing is written).
        FileNotFoundError: the data set or one of its folders isn't there.
    """
    if name not in DATASETS:
        raise InvalidInputError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    if scenes is not None and name != "street_scenes":
        raise InvalidInputError(f"scenes= is for 'street_scenes' only, got data set {name!r}")
    if on_error not in ON_ERROR:
        raise InvalidInputError(
            f"open_dataset: on_error is {on_error!r}; expected one of {ON_ERROR}"
        )
    layout = LAYOUTS[name]
    root = find_root(name, data_dir, scenes)
    store = Store(root)
    table = layout.table(store)
    found = find_splits(layout, store)
    splits = tuple(split.split("+"))
    for one in splits:
        if one not in found:
            raise InvalidInputError(
                f"{root}: {name} has no split {one!r} with labels here, only {', '.join(found)}; it "
                f"would need {layout.expected}"
            )
    for line in check_counts(layout, found, splits):
        logging.warning("%s in %s is not complete. %s", name, root, line)
    folder = _prepared_root(root, prepared_dir) / f"{name}-{fingerprint(found, table)}"
    from segblocks_jax.data import builders

    if not folder.is_dir():
        partial = builders.skipped_folder(folder)
        if on_error == "skip" and partial.is_dir():
            folder = partial
        else:
            folder = builders.prepare(name, root, folder, on_error)
    records = builders.Records(name, folder, splits)
    if records.skipped:
        logging.warning("%s %s: %d items were left out", name, split, len(records.skipped))
    return SegmentationSource(name, split, table, records, records.sizes, records.skipped)


def label_table(name: str, data_dir: str | os.PathLike | None = None) -> LabelTable:
    """The label table of a data set; reads it from the data set where only that knows it.

    Raises:
        FileNotFoundError, ValueError: the table is in the data set's folder, and that isn't there.
    """
    return TABLES[name] if name in TABLES else LAYOUTS[name].table(Store(find_root(name, data_dir)))


def find_root(name: str, data_dir, scenes: SceneSet | None = None) -> pathlib.Path:
    """The data set's own folder, below `data_dir` or the environment's choice.

    Raises:
        ValueError: neither says where.
    """
    data_dir = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if data_dir is None and name != "street_scenes":
        raise InvalidInputError(
            f"open_dataset({name!r}): where is it? Pass data_dir=... or set {DATA_DIR_VARIABLE} to "
            f"the folder that holds {LAYOUTS[name].expected}"
        )
    parent = expand(data_dir) if data_dir else _cache()
    if name == "street_scenes":
        stored = SceneSet.stored_in(parent)
        if stored is not None:
            return write(parent, scenes or stored)
        scenes = scenes or SceneSet()
        return write(parent / "street_scenes" / scenes.folder_name, scenes)
    # Editions of a data set may share its folder: "cityscapes_coarse" lies in "cityscapes" too.
    own = (parent / folder for folder in (name, name.partition("_")[0]))
    return next((folder for folder in own if folder.is_dir()), parent)


def _prepared_root(root: pathlib.Path, prepared_dir) -> pathlib.Path:
    if prepared_dir is not None:
        return expand(prepared_dir)
    # The superuser may write anywhere; a folder without any write permission still means no.
    writable = root.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    return root / "tfds" if writable and os.access(root, os.W_OK) else _cache() / "tfds"


def _cache() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return expand(base) / "segblocks_jax"
