"""Label tables: class names, colors, and the way from stored ids to train ids.

A data set stores one id a pixel. Training wants the evaluated classes as 0..k-1 and everything
else as `IGNORE`. The tables here hold that mapping as a 256-entry lookup, and know which stored
ids the data set defines, so that a file of another data set is an error and not silently void.
"""

import colorsys
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8, UInt32

from segblocks_jax.errors import InputError

IGNORE = 255
Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class LabelTable:
    """The classes of a data set.

    Attributes:
        name: the data set's name, as error messages give it.
        classes: names of the k evaluated classes; position = train id.
        colors: uint8 (k, 3), RGB, for pictures.
        to_train: uint8 (256,), stored id -> train id, `IGNORE` for what isn't evaluated.
        known: bool (256,), the stored ids that the data set defines.
    """

    name: str
    classes: tuple[str, ...]
    colors: UInt8[np.ndarray, "k 3"]
    to_train: UInt8[np.ndarray, "256"]
    known: Bool[np.ndarray, "256"]

    def __post_init__(self):
        k = len(self.classes)
        expected = {"colors": (k, 3), "to_train": (256,), "known": (256,)}
        for field, shape in expected.items():
            if getattr(self, field).shape != shape:
                got = getattr(self, field).shape
                raise InputError(f"LabelTable {self.name}: {field} has shape {got}, not {shape}")
            getattr(self, field).setflags(write=False)

    @property
    def num_classes(self) -> int:
        """The number of evaluated classes, k."""
        return len(self.classes)

    def train_ids(
        self, stored: UInt8[np.ndarray, "*shape"], where: str = "the label"
    ) -> UInt8[np.ndarray, "*shape"]:
        """Maps stored ids to train ids; for one that the data set lacks, a ValueError says `where` it comes from."""
        if stored.dtype != np.uint8:
            raise InputError(f"{where}: label ids must be uint8, got {stored.dtype}")
        present = np.bincount(stored.reshape(-1), minlength=256) > 0
        unknown = np.flatnonzero(present & ~self.known)
        if unknown.size:
            raise InputError(
                f"{where}: holds label {_ranges(unknown)}, which {self.name} doesn't define; "
                f"allowed are {_ranges(np.flatnonzero(self.known))}. Is this a label file of "
                f"{self.name}, with ids as published?"
            )
        return self.to_train[stored]

    def holds_train_ids(self, counts: Int[np.ndarray, "256"]) -> bool:
        """Whether files that should hold stored ids look as if they held train ids, by a split's pixels of each id.

        They do if no id is beyond the train ids, and most pixels would be ignored.
        """
        k = self.num_classes
        same = (self.to_train[:k] == np.arange(k)).all()
        ignored = counts[self.to_train == IGNORE].sum()
        return bool(not same and not counts[k:IGNORE].any() and 2 * ignored > counts.sum())

    def colorize(self, train_ids: UInt8[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
        """Paints train ids with the table's colors; everything that is no class is black."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes] = self.colors
        return palette[train_ids]


@dataclasses.dataclass(frozen=True, eq=False)
class LabelCodes:
    """What label files hold in place of a data set's ids: colors, or ids beyond 255.

    Attributes:
        name: the data set's name, as error messages give it.
        kind: "color" or "id".
        values: uint32 (n,), none twice; a color is 65536 red + 256 green + blue.
        ids: uint8 (n,), the stored id of each.
    """

    name: str
    kind: str
    values: UInt32[np.ndarray, "n"]
    ids: UInt8[np.ndarray, "n"]

    @classmethod
    def of_colors(cls, name: str, colors: Sequence[Color], ids: Sequence[int]) -> "LabelCodes":
        """Of colors (red, green, blue)."""
        return cls(name, "color", _pack(np.array(colors, np.uint8)), np.array(ids, np.uint8))

    def decode(
        self, label: Integer[np.ndarray, "h w *c"], where: str = "the label"
    ) -> UInt8[np.ndarray, "h w"]:
        """The ids of an RGB picture (h, w, 3), or of numbers (h, w).

        A ValueError says `where` a label comes from that has other values, which, and of how many pixels.
        """
        values = _pack(label) if self.kind == "color" else label.astype(np.uint32)
        order = np.argsort(self.values)
        found = order[np.searchsorted(self.values[order], values).clip(max=len(order) - 1)]
        wrong = self.values[found] != values
        if wrong.any():
            y, x = np.argwhere(wrong)[0].tolist()
            strange, counts = np.unique(values[wrong], return_counts=True)
            most = np.argsort(-counts, kind="stable")
            named = [f"{self._show(strange[i])} in {counts[i]}" for i in most]
            raise InputError(
                f"{where}: pixel ({x}, {y}) has {self.kind} {self._show(values[y, x])}, which is no class of "
                f"{self.name} ({wrong.sum()} such pixels: {_first(named, 4)}); expected "
                f"{_first([*map(self._show, self.values)], 8)}"
            )
        return self.ids[found]

    def _show(self, value: int | np.integer) -> str:
        value = int(value)
        return str((value >> 16, value >> 8 & 255, value & 255) if self.kind == "color" else value)


def _first(texts: Sequence[str], count: int) -> str:
    more = [f"{len(texts) - count} more"] if len(texts) > count else []
    return ", ".join([*texts[:count], *more])


def _pack(picture: UInt8[np.ndarray, "*shape 3"]) -> UInt32[np.ndarray, "*shape"]:
    return picture.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)


def _ranges(ids) -> str:
    """Writes sorted ids compactly: [0, 1, 2, 5] -> "0..2, 5"."""
    runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
    return ", ".join(f"{r[0]}" if len(r) == 1 else f"{r[0]}..{r[-1]}" for r in runs)


def make_table(name: str, rows: list[tuple[int, str, Color]], void: tuple[int, ...]) -> LabelTable:
    """Builds a table from (stored id, class, color) rows in train-id order and the void ids."""
    stored, classes, colors = zip(*rows, strict=True)
    to_train = np.full(256, IGNORE, np.uint8)
    to_train[list(stored)] = np.arange(len(rows))
    known = np.isin(np.arange(256), (*stored, *void))
    return LabelTable(name, classes, np.array(colors, np.uint8), to_train, known)


def table_of_names(
    name: str, classes: tuple[str, ...], colors: Sequence[Color] | None = None
) -> LabelTable:
    """A table of classes that are stored as train ids, in `colors`, or in some that differ."""
    if colors is not None:
        pairs = enumerate(zip(classes, colors, strict=True))
        return make_table(name, [(i, title, color) for i, (title, color) in pairs], (IGNORE,))
    rows = []
    for i, title in enumerate(classes):
        rgb = colorsys.hsv_to_rgb(i / len(classes), 0.8, (0.95, 0.45, 0.7)[i % 3])
        red, green, blue = (round(255 * value) for value in rgb)
        rows.append((i, title, (red, green, blue)))
    return make_table(name, rows, void=(IGNORE,))


def distinct_colors() -> Iterator[Color]:
    """Colors that differ much, the first ones most: those of PASCAL VOC's label pictures, without black."""
    for number in range(1, 1 << 24):
        bits = [number >> 3 * k for k in range(8)]
        red, green, blue = (
            sum((b >> c & 1) << (7 - k) for k, b in enumerate(bits)) for c in range(3)
        )
        yield red, green, blue


# Ids, names and colors of the official label list (cityscapesScripts, helpers/labels.py).
CITYSCAPES = make_table(
    "Cityscapes",
    [
        (7, "road", (128, 64, 128)),
        (8, "sidewalk", (244, 35, 232)),
        (11, "building", (70, 70, 70)),
        (12, "wall", (102, 102, 156)),
        (13, "fence", (190, 153, 153)),
        (17, "pole", (153, 153, 153)),
        (19, "traffic light", (250, 170, 30)),
        (20, "traffic sign", (220, 220, 0)),
        (21, "vegetation", (107, 142, 35)),
        (22, "terrain", (152, 251, 152)),
        (23, "sky", (70, 130, 180)),
        (24, "person", (220, 20, 60)),
        (25, "rider", (255, 0, 0)),
        (26, "car", (0, 0, 142)),
        (27, "truck", (0, 0, 70)),
        (28, "bus", (0, 60, 100)),
        (31, "train", (0, 80, 100)),
        (32, "motorcycle", (0, 0, 230)),
        (33, "bicycle", (119, 11, 32)),
    ],
    # 255 is the license plate (-1) as an 8-bit file stores it.
    void=(0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255),
)
# Colors of the SegNet tutorial, the usual source of the 11-class labels.
CAMVID = make_table(
    "CamVid",
    [
        (0, "sky", (128, 128, 128)),
        (1, "building", (128, 0, 0)),
        (2, "pole", (192, 192, 128)),
        (3, "road", (128, 64, 128)),
        (4, "pavement", (60, 40, 222)),
        (5, "tree", (128, 128, 0)),
        (6, "sign symbol", (192, 128, 128)),
        (7, "fence", (64, 64, 128)),
        (8, "car", (64, 0, 128)),
        (9, "pedestrian", (64, 64, 0)),
        (10, "bicyclist", (0, 128, 192)),
    ],
    void=(11,),
)
