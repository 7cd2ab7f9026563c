"""`open_dataset`: a data set by name, prepared on first use, as a random-access source."""

import dataclasses
import operator
import os
import pathlib
import stat

from segblocks_jax.data.folders import LAYOUTS, Layout, find_pairs, fingerprint
from segblocks_jax.data.labels import CAMVID, CITYSCAPES, LabelTable
from segblocks_jax.data.mapillary_labels import MAPILLARY_V1_2
from segblocks_jax.data.normalisation import NORMALISATION, Normalisation
from segblocks_jax.data.pipeline import Source
from segblocks_jax.data.street_scenes import SceneSet, write

DATA_DIR_VARIABLE = "SEGBLOCKS_DATA_DIR"
DATASETS = (*LAYOUTS, "street_scenes")
TABLES = {
    "cityscapes": CITYSCAPES,
    "street_scenes": CITYSCAPES,
    "camvid": CAMVID,
    "mapillary": MAPILLARY_V1_2,
}
"""The label table of each data set, where its folder doesn't hold another one."""


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentationSource:
    """One split of a data set.

    `source[i]` is {"image": uint8 (h, w, 3), "label": uint8 (h, w) train ids with 255 for ignored
    pixels, "name": str}; items are sorted by name. Pickles, so that worker processes can read.

    Attributes:
        name: the data set, one of `DATASETS`.
        split: "train", "val" or "test".
        table: classes, colours and the id mapping.
        records: the items, with ids as stored.
    """

    name: str
    split: str
    table: LabelTable
    records: Source

    @property
    def normalisation(self) -> Normalisation:
        """Mean and deviation to normalise with."""
        return NORMALISATION[self.name]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"{self.name} {self.split}: item {position} of {len(self)}")
        record = self.records[position % len(self)]
        return {**record, "label": self.table.to_train[record["label"]]}


def open_dataset(
    name: str,
    data_dir: str | os.PathLike | None = None,
    split: str = "train",
    prepared_dir: str | os.PathLike | None = None,
    *,
    scenes: SceneSet | None = None,
) -> SegmentationSource:
    """Opens a split; the first time, checks all files and prepares them as TFDS array records.

    Args:
        name: "cityscapes", "camvid", "mapillary" or "street_scenes".
        data_dir: folder of the data set, or one that holds it under its name; by default what the
            environment variable SEGBLOCKS_DATA_DIR says. Street scenes are generated there (by
            default in the user's cache) where they don't exist yet.
        split: "train", "val" or "test".
        prepared_dir: where prepared files go; `tfds` in the data set's folder by default, or the
            user's cache where that is read-only. They are reused as long as names and sizes of
            all source files stay the same.
        scenes: which street scenes, for "street_scenes" only; `SceneSet()` by default.

    Raises:
        ValueError: unknown name or split; a broken or incomplete data set (nothing is written).
        FileNotFoundError: the data set or one of its folders isn't there.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    if scenes is not None and name != "street_scenes":
        raise ValueError(f"scenes= is for 'street_scenes' only, got data set {name!r}")
    layout = LAYOUTS["cityscapes" if name == "street_scenes" else name]
    root = _find_root(layout, name, data_dir, scenes)
    pairs = find_pairs(layout, root)
    if split not in pairs:
        raise ValueError(
            f"{root}: {name} has no split {split!r} with labels here, only {', '.join(pairs)}; it "
            f"would need {layout.expected}"
        )
    from segblocks_jax.data import builders

    folder = _prepared_root(root, prepared_dir) / f"{name}-{fingerprint(root, pairs)}"
    if not folder.is_dir():
        builders.prepare(layout.name, root, folder)
    records = builders.Records(layout.name, folder, split)
    return SegmentationSource(name, split, layout.table(root), records)


def _find_root(layout: Layout, name: str, data_dir, scenes: SceneSet | None) -> pathlib.Path:
    """The data set's own folder, below `data_dir` or the environment's choice."""
    data_dir = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if data_dir is None and name != "street_scenes":
        raise ValueError(
            f"open_dataset({name!r}): where is it? Pass data_dir=... or set {DATA_DIR_VARIABLE} to "
            f"the folder that holds {layout.expected}"
        )
    parent = pathlib.Path(data_dir) if data_dir else _cache()
    if name == "street_scenes":
        stored = SceneSet.stored_in(parent)
        if stored is not None:
            return write(parent, scenes or stored)
        scenes = scenes or SceneSet()
        return write(parent / "street_scenes" / scenes.folder_name, scenes)
    return parent / name if (parent / name).is_dir() else parent


def _prepared_root(root: pathlib.Path, prepared_dir) -> pathlib.Path:
    if prepared_dir is not None:
        return pathlib.Path(prepared_dir)
    # The superuser may write anywhere; a folder without any write permission still means no.
    writable = root.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    return root / "tfds" if writable and os.access(root, os.W_OK) else _cache() / "tfds"


def _cache() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "segblocks_jax"
