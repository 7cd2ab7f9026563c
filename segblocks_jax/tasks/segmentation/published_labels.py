"""Labels as published: the 32 classes of CamVid, and Mapillary Vistas, v1.2 by heart, others from their config file.

CamVid's label pictures have a color a class; preparation turns them into ids, the position in its table.
"""

import json

import numpy as np
from jaxtyping import UInt8

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.segmentation.labels import CAMVID, IGNORE, LabelTable, make_table

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


def camvid_ids(
    picture: UInt8[np.ndarray, "h w 3"], where: str = "the label"
) -> UInt8[np.ndarray, "h w"]:
    """Turns an RGB picture in the published colors into ids 0..31.

    Raises:
        ValueError: a color that is no class; says `where` the picture comes from, such as a path.
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


# Ids, names and colors of config.json in the v1.2 release.
MAPILLARY_V1_2 = make_table(
    "Mapillary Vistas v1.2",
    [
        (0, "bird", (165, 42, 42)),
        (1, "ground animal", (0, 192, 0)),
        (2, "curb", (196, 196, 196)),
        (3, "fence", (190, 153, 153)),
        (4, "guard rail", (180, 165, 180)),
        (5, "barrier", (90, 120, 150)),
        (6, "wall", (102, 102, 156)),
        (7, "bike lane", (128, 64, 255)),
        (8, "crosswalk - plain", (140, 140, 200)),
        (9, "curb cut", (170, 170, 170)),
        (10, "parking", (250, 170, 160)),
        (11, "pedestrian area", (96, 96, 96)),
        (12, "rail track", (230, 150, 140)),
        (13, "road", (128, 64, 128)),
        (14, "service lane", (110, 110, 110)),
        (15, "sidewalk", (244, 35, 232)),
        (16, "bridge", (150, 100, 100)),
        (17, "building", (70, 70, 70)),
        (18, "tunnel", (150, 120, 90)),
        (19, "person", (220, 20, 60)),
        (20, "bicyclist", (255, 0, 0)),
        (21, "motorcyclist", (255, 0, 100)),
        (22, "other rider", (255, 0, 200)),
        (23, "lane marking - crosswalk", (200, 128, 128)),
        (24, "lane marking - general", (255, 255, 255)),
        (25, "mountain", (64, 170, 64)),
        (26, "sand", (230, 160, 50)),
        (27, "sky", (70, 130, 180)),
        (28, "snow", (190, 255, 255)),
        (29, "terrain", (152, 251, 152)),
        (30, "vegetation", (107, 142, 35)),
        (31, "water", (0, 170, 30)),
        (32, "banner", (255, 255, 128)),
        (33, "bench", (250, 0, 30)),
        (34, "bike rack", (100, 140, 180)),
        (35, "billboard", (220, 220, 220)),
        (36, "catch basin", (220, 128, 128)),
        (37, "cctv camera", (222, 40, 40)),
        (38, "fire hydrant", (100, 170, 30)),
        (39, "junction box", (40, 40, 40)),
        (40, "mailbox", (33, 33, 33)),
        (41, "manhole", (100, 128, 160)),
        (42, "phone booth", (142, 0, 0)),
        (43, "pothole", (70, 100, 150)),
        (44, "street light", (210, 170, 100)),
        (45, "pole", (153, 153, 153)),
        (46, "traffic sign frame", (128, 128, 128)),
        (47, "utility pole", (0, 0, 80)),
        (48, "traffic light", (250, 170, 30)),
        (49, "traffic sign (back)", (192, 192, 192)),
        (50, "traffic sign (front)", (220, 220, 0)),
        (51, "trash can", (140, 140, 20)),
        (52, "bicycle", (119, 11, 32)),
        (53, "boat", (150, 0, 255)),
        (54, "bus", (0, 60, 100)),
        (55, "car", (0, 0, 142)),
        (56, "caravan", (0, 0, 90)),
        (57, "motorcycle", (0, 0, 230)),
        (58, "on rails", (0, 80, 100)),
        (59, "other vehicle", (128, 64, 64)),
        (60, "trailer", (0, 0, 110)),
        (61, "truck", (0, 0, 70)),
        (62, "wheeled slow", (0, 0, 192)),
        (63, "car mount", (32, 32, 32)),
        (64, "ego vehicle", (120, 10, 10)),
    ],
    void=(65,),
)


def mapillary_table(config: bytes, where: str) -> LabelTable:
    """Reads the label table from the content of a Vistas `config.json` (any version).

    The file lists {"labels": [{"readable", "color", "evaluate", ...}]} in id order. Labels with
    `evaluate` false are void; the others get train ids in order of their ids.

    Raises:
        ValueError: the file isn't such a list; calls it `where`.
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
