"""The folder layouts of the data sets: finds image/label pairs and refuses half a data set.

Every check here happens before anything is prepared, so each error can promise that nothing was
written. Layouts:

    cityscapes  leftImg8bit/<split>/<city>/*_leftImg8bit.png
                gtFine/<split>/<city>/*_gtFine_labelIds.png     split: train, val, test
    camvid      <split>/*.png|jpg, <split>annot/*.png           split: train, val, test
    mapillary   <folder>/images/*.jpg                           train: training, val: validation
                <folder>/v1.2/labels/*.png (or labels/, or v2.0/labels/ with config_v2.0.json)
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from segblocks_jax.data.labels import CAMVID, CITYSCAPES, LabelTable
from segblocks_jax.data.mapillary_labels import MAPILLARY_V1_2, mapillary_table

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image file with its label file; `name` identifies the pair within its split."""

    name: str
    image: pathlib.Path
    label: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where the images or the labels of a split lie: files `pattern` below `path`.

    A file's key, by which images and labels find each other, is its name without `ending`, which
    is one of several for images of different formats.
    """

    path: pathlib.Path
    pattern: str
    endings: tuple[str, ...]

    def files(self) -> dict[str, pathlib.Path]:
        """All files by key, sorted by key.

        Raises:
            ValueError: no file, or two files with the same key.
        """
        found: dict[str, pathlib.Path] = {}
        for path in sorted(self.path.glob(self.pattern)):
            ending = next((e for e in self.endings if path.name.lower().endswith(e.lower())), None)
            if ending is None or path.name.startswith("."):
                continue
            key = path.name[: -len(ending)]
            if key in found:
                raise ValueError(
                    f"{path} and {found[key]} have the same name; remove one of them. "
                    "Nothing was written."
                )
            found[key] = path
        if not found:
            raise ValueError(
                f"{self.path}: holds no file {self.pattern} ending in {' or '.join(self.endings)}; "
                "unpack the data set completely. Nothing was written."
            )
        return dict(sorted(found.items()))


@dataclasses.dataclass(frozen=True)
class Layout:
    """A data set on disk.

    Attributes:
        name: its name for `open_dataset`.
        splits: the splits that the data set may have.
        expected: one line that says what its folder must hold.
        folders: (root, split) -> folders of images and labels.
        table: root -> the table that its stored ids follow.
    """

    name: str
    splits: tuple[str, ...]
    expected: str
    folders: Callable[[pathlib.Path, str], tuple[Folder, Folder]]
    table: Callable[[pathlib.Path], LabelTable]


def _cityscapes_folders(root: pathlib.Path, split: str) -> tuple[Folder, Folder]:
    return (
        Folder(root / "leftImg8bit" / split, "*/*_leftImg8bit.png", ("_leftImg8bit.png",)),
        Folder(root / "gtFine" / split, "*/*_gtFine_labelIds.png", ("_gtFine_labelIds.png",)),
    )


def _camvid_folders(root: pathlib.Path, split: str) -> tuple[Folder, Folder]:
    return (
        Folder(root / split, "*.*", _IMAGE_SUFFIXES),
        Folder(root / f"{split}annot", "*.*", (".png",)),
    )


def _mapillary_version(root: pathlib.Path) -> str:
    """The folder of labels: v1.2/labels, else the older releases' labels, else v2.0/labels."""
    candidates = ("v1.2/labels", "labels", "v2.0/labels")
    folders = ("training", "validation")
    return next(
        (c for c in candidates if any((root / f / c).is_dir() for f in folders)), candidates[0]
    )


def _mapillary_folders(root: pathlib.Path, split: str) -> tuple[Folder, Folder]:
    folder = root / {"train": "training", "val": "validation"}[split]
    return (
        Folder(folder / "images", "*.*", _IMAGE_SUFFIXES),
        Folder(folder / _mapillary_version(root), "*.*", (".png",)),
    )


def _mapillary_table(root: pathlib.Path) -> LabelTable:
    if _mapillary_version(root) == "v2.0/labels":
        config = root / "config_v2.0.json"
        if not config.is_file():
            raise FileNotFoundError(
                f"{config}: missing, and only it says which of the v2.0 labels are evaluated; copy "
                "it from the release, or unpack v1.2/labels. Nothing was written."
            )
        return mapillary_table(config)
    configs = [root / name for name in ("config_v1.2.json", "config.json")]
    return next((mapillary_table(c) for c in configs if c.is_file()), MAPILLARY_V1_2)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "cityscapes",
            ("train", "val", "test"),
            "leftImg8bit/<split>/<city>/*_leftImg8bit.png and "
            "gtFine/<split>/<city>/*_gtFine_labelIds.png",
            _cityscapes_folders,
            lambda root: CITYSCAPES,
        ),
        Layout(
            "camvid",
            ("train", "val", "test"),
            "<split>/*.png (or jpg) and <split>annot/*.png",
            _camvid_folders,
            lambda root: CAMVID,
        ),
        Layout(
            "mapillary",
            ("train", "val"),
            "training/ and validation/ with images/*.jpg and v1.2/labels/*.png",
            _mapillary_folders,
            _mapillary_table,
        ),
    )
}


def find_pairs(layout: Layout, root: pathlib.Path) -> dict[str, list[Pair]]:
    """Finds the image/label pairs of every split that `root` holds, each sorted by name.

    Raises:
        FileNotFoundError: `root` or all splits are missing, or images without labels' folder.
        ValueError: an image without a label or the reverse, or an empty folder.
    """
    remedy = f"A {layout.name} folder holds {layout.expected}. Nothing was written."
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder. {remedy}")
    pairs = {}
    for split in layout.splits:
        images, labels = layout.folders(root, split)
        missing = [folder.path for folder in (images, labels) if not folder.path.is_dir()]
        if len(missing) == 1:
            raise FileNotFoundError(f"{missing[0]}: missing for split {split!r}. {remedy}")
        if not missing:
            pairs[split] = _pair_up(images.files(), labels.files(), images.path, labels.path)
    if not pairs:
        raise FileNotFoundError(f"{root}: holds none of the splits {layout.splits}. {remedy}")
    return pairs


def _pair_up(images, labels, image_folder, label_folder) -> list[Pair]:
    sides = (("image", images, labels, label_folder), ("label", labels, images, image_folder))
    for kind, have, other, folder in sides:
        lonely = [path for key, path in have.items() if key not in other]
        if lonely:
            raise ValueError(
                f"{lonely[0]}: this {kind} has no counterpart in {folder} ({len(lonely)} such); "
                "unpack the data set completely or remove it. Nothing was written."
            )
    return [Pair(key, image, labels[key]) for key, image in images.items()]


def check_pair(pair: Pair, table: LabelTable) -> None:
    """Decodes both files of a pair and checks sizes and ids.

    Raises:
        ValueError: unreadable, of different sizes, not a label image, or ids that the table
            doesn't know; the message names the file.
    """
    height, width = decode(pair.image, "RGB").shape[:2]
    label = decode(pair.label, "label")
    if label.shape != (height, width):
        raise ValueError(
            f"{pair.label}: the label is {label.shape[1]}x{label.shape[0]} but its image "
            f"{pair.image} is {width}x{height}; take both from the same release"
        )
    table.train_ids(label, str(pair.label))


def decode(file, mode: str, where: str | None = None) -> np.ndarray:
    """Decodes an image file or an open binary file with Pillow.

    Args:
        file: path or binary file object.
        mode: "RGB" for uint8 (h, w, 3); "label" for uint8 (h, w) ids, palette indices included.
        where: what to call the file in errors; its path by default.

    Raises:
        ValueError: unreadable, or a label file with other than one 8-bit channel.
    """
    where = where or str(file)
    try:
        with Image.open(file) as picture:
            if mode == "label" and picture.mode not in ("L", "P"):
                raise ValueError(
                    f"{where}: a label must have one 8-bit channel of ids, got mode "
                    f"{picture.mode}; is this the coloured picture of the labels?"
                )
            return np.array(picture if mode == "label" else picture.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{where}: can't be read as an image ({error}); copy it again") from error


def fingerprint(root: pathlib.Path, pairs: dict[str, list[Pair]]) -> str:
    """A digest of all file names and sizes, and of the label configuration: 16 hex digits."""
    files = [f for split in pairs.values() for pair in split for f in (pair.image, pair.label)]
    digest = hashlib.sha256()
    for file in files + sorted(root.glob("config*.json")):
        digest.update(f"{file.relative_to(root).as_posix()} {file.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
