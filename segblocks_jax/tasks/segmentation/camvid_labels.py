"""CamVid as it was published: 32 classes drawn in colors, and the 11 that everybody trains on.

The published label pictures have a color a class; preparation turns them into ids, the position in
the table below.
"""

import numpy as np
from jaxtyping import UInt8

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.segmentation.labels import CAMVID, IGNORE, LabelTable

# Name, color (label_colors.txt of the release) and the class of the 11 that it belongs to (the
# grouping of Sturgess et al., BMVC 2009, which the 480x360 labels have too).
_ROWS = [
    ("animal", (64, 128, 64), "pedestrian"),
    ("archway", (192, 0, 128), "building"),
    ("bicyclist", (0, 128, 192), "bicyclist"),
    ("bridge", (0, 128, 64), "building"),
    ("building", (128, 0, 0), "building"),
    ("car", (64, 0, 128), "car"),
    ("cart luggage pram", (64, 0, 192), "pedestrian"),
    ("child", (192, 128, 64), "pedestrian"),
    ("column pole", (192, 192, 128), "pole"),
    ("fence", (64, 64, 128), "fence"),
    ("lane marking driveable", (128, 0, 192), "road"),
    ("lane marking not driveable", (192, 0, 64), "road"),
    ("misc text", (128, 128, 64), "sign symbol"),
    ("motorcycle scooter", (192, 0, 192), "bicyclist"),
    ("other moving", (128, 64, 64), "car"),
    ("parking block", (64, 192, 128), "pavement"),
    ("pedestrian", (64, 64, 0), "pedestrian"),
    ("road", (128, 64, 128), "road"),
    ("road shoulder", (128, 128, 192), "pavement"),
    ("sidewalk", (0, 0, 192), "pavement"),
    ("sign symbol", (192, 128, 128), "sign symbol"),
    ("sky", (128, 128, 128), "sky"),
    ("suv pickup truck", (64, 128, 192), "car"),
    ("traffic cone", (0, 0, 64), "pole"),
    ("traffic light", (0, 64, 64), "sign symbol"),
    ("train", (192, 64, 128), "car"),
    ("tree", (128, 128, 0), "tree"),
    ("truck bus", (192, 128, 192), "car"),
    ("tunnel", (64, 0, 64), "building"),
    ("vegetation misc", (192, 192, 0), "tree"),
    ("void", (0, 0, 0), None),
    ("wall", (64, 192, 0), "building"),
]
CAMVID_COLORS = {name: color for name, color, _ in _ROWS}
"""The 32 published classes, in order of their ids, with their colors."""


def _table() -> LabelTable:
    to_train = np.full(256, IGNORE, np.uint8)
    for i, (_, _, group) in enumerate(_ROWS):
        if group is not None:
            to_train[i] = CAMVID.classes.index(group)
    known = np.arange(256) < len(_ROWS)
    return LabelTable("CamVid (32 classes)", CAMVID.classes, CAMVID.colors, to_train, known)


CAMVID_FULL = _table()


def camvid_ids(
    picture: UInt8[np.ndarray, "h w 3"], where: str = "the label"
) -> UInt8[np.ndarray, "h w"]:
    """Turns a picture in the published colors into ids 0..31.

    Args:
        picture: RGB.
        where: what the picture comes from (a path), for the error message.

    Raises:
        ValueError: a color that is no class.
    """
    packed = picture.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    codes = np.array(list(CAMVID_COLORS.values()), np.uint32) @ [1 << 16, 1 << 8, 1]
    order = np.argsort(codes)
    position = np.searchsorted(codes[order], packed).clip(max=len(codes) - 1)
    ids = order[position].astype(np.uint8)
    wrong = np.argwhere(codes[ids] != packed)
    if len(wrong):
        y, x = wrong[0]
        raise InputError(
            f"{where}: pixel ({x}, {y}) has color {tuple(picture[y, x].tolist())}, which is no class "
            f"of CamVid ({len(wrong)} such pixels); take the label pictures as published"
        )
    return ids


def camvid_split(name: str) -> str:
    """The split of a frame, by its name such as "0001TP_006690": 367 train, 101 val, 233 test.

    Three drives are cut by frame number, the fourth is all test, as the 480x360 release has it.

    Raises:
        ValueError: a frame of none of the four drives.
    """
    drive, _, frame = name.partition("_")
    digits = "".join(c for c in frame if c.isdigit())
    if drive == "Seq05VD":
        return "test"
    if drive == "0006R0":
        return "train"
    if drive == "0001TP" and digits:
        return "train" if int(digits) <= 8520 else "test"
    if drive == "0016E5" and digits:
        return "val" if 7959 <= int(digits) <= 8159 else "train"
    raise InputError(
        f"{name}: no frame of CamVid; names begin with 0001TP_, 0006R0_, 0016E5_ or Seq05VD_"
    )
