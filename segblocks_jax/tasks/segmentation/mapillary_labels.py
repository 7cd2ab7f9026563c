"""The label tables of Mapillary Vistas: v1.2 by heart, others from the data set's config file."""

import json

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.segmentation.labels import LabelTable, make_table

# Ids, names and colors of config.json in the v1.2 release.
_V1_2_ROWS = [
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
]
_V1_2_UNLABELED = 65

MAPILLARY_V1_2 = make_table("Mapillary Vistas v1.2", _V1_2_ROWS, (_V1_2_UNLABELED,))


def mapillary_table(config: bytes, where: str) -> LabelTable:
    """Reads the label table from the content of a Vistas `config.json` (any version).

    The file lists {"labels": [{"readable", "color", "evaluate", ...}]} in id order. Labels with
    `evaluate` false are void; the others get train ids in order of their ids.

    Args:
        config: the file's content.
        where: its path, for the error message.

    Raises:
        ValueError: the file isn't such a list.
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
