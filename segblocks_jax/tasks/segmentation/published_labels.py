"""Labels as published: the 32 classes of CamVid, and Mapillary Vistas, by the config file of a release."""

import dataclasses
import json
import pathlib

import numpy as np

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.segmentation.labels import (
    CAMVID,
    IGNORE,
    LabelCodes,
    LabelTable,
    make_table,
)

# Name, color (label_colors.txt of the release) and the class of the 11 that it belongs to (the
# grouping of Sturgess et al., BMVC 2009, which the 480x360 labels have too).
_CAMVID_ROWS = [
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
CAMVID_COLORS = {name: color for name, color, _ in _CAMVID_ROWS}
"""The 32 published classes, in order of their ids, with their colors."""


_groups = [CAMVID.classes.index(group) if group else IGNORE for *_, group in _CAMVID_ROWS]
CAMVID_FULL = LabelTable(
    "CamVid (32 classes)",
    CAMVID.classes,
    CAMVID.colors,
    to_train=np.array([*_groups, *[IGNORE] * (256 - len(_groups))], np.uint8),
    known=np.arange(256) < len(_groups),
)
CAMVID_CODES = LabelCodes.of_colors("CamVid", list(CAMVID_COLORS.values()), range(len(_groups)))
"""The colors of label pictures: preparation turns them into ids, the position in `CAMVID_COLORS`."""


def camvid_split(name: str) -> str:
    """The split of a frame, by its name such as "0001TP_006690": 367 train, 101 val, 233 test.

    Three drives are cut by frame number, the fourth is all test, as the 480x360 release has it. Others raise
    ValueError.
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


def mapillary_table(config: bytes, where: str) -> LabelTable:
    """Reads the label table from the content of a Vistas `config.json` (any version).

    The file lists {"labels": [{"readable", "color", "evaluate", ...}]} in id order. Labels with `evaluate` false are
    void; the others get train ids in order of their ids. Anything else raises a ValueError.
    """
    try:
        labels = json.loads(config)["labels"]
        rows = [
            (i, label["readable"].lower(), tuple(label["color"]))
            for i, label in enumerate(labels)
            if label["evaluate"]
        ]
        void = tuple(i for i, label in enumerate(labels) if not label["evaluate"])
        return make_table(f"Mapillary Vistas ({where})", rows, void)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{where}: not a Mapillary Vistas label configuration ({error!r}); take config.json, "
            "config_v1.2.json or config_v2.0.json from the release"
        ) from error


# The labels of config.json in the v1.2 release.
_V1_2 = pathlib.Path(__file__).with_name("mapillary_v1.2.json")
MAPILLARY_V1_2 = dataclasses.replace(
    mapillary_table(_V1_2.read_bytes(), str(_V1_2)), name="Mapillary Vistas v1.2"
)
