"""MPII's own annotation, `mpii_human_pose_v1_u12_1.mat`, as the records that `mpii.person_of` takes.

The file says which images are for training, and holds joints of those alone. Of them, every eighth one with people is
for validation here. The split that publications validate on is another one: take its JSON files to compare with them.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.pose.joints import COUNT

FILE = "mpii_human_pose_v1_u12_1.mat"
_VALIDATION = 8  # One image of so many.


def read(file: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """The records of "train" or "val": people with a scale, a position and at least one joint.

    Raises:
        InputError: the file is damaged, or holds something else.
    """
    import scipy.io

    try:
        release = scipy.io.loadmat(file, struct_as_record=False, squeeze_me=True)["RELEASE"]
        images = np.atleast_1d(release.annolist)
        shown = np.atleast_1d(release.img_train)
    except Exception as error:  # SciPy raises many things for damaged files.
        raise InputError(
            f"{file}: holds no RELEASE with annolist and img_train ({type(error).__name__}: {error}); copy it again"
        ) from error
    if len(images) != len(shown):
        raise InputError(
            f"{file}: has {len(images)} images and {len(shown)} marks of img_train; copy it again"
        )
    records, number = [], 0
    for i in np.flatnonzero(shown == 1):
        try:
            found = list(_people(images[i]))
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"{file}, image {i}: {type(error).__name__}: {error}; copy it again"
            ) from error
        if not found:
            continue
        number += 1
        if (number % _VALIDATION == 0) == (split == "val"):
            records += found
    if not records:
        raise InputError(f"{file}: has no people with joints for {split}")
    return records


def _people(image: Any) -> Iterator[dict[str, Any]]:
    for person in np.atleast_1d(image.annorect):
        points = getattr(getattr(person, "annopoints", None), "point", ())
        place: Any = getattr(person, "objpos", None)
        scale: Any = getattr(person, "scale", ())
        if np.size(points) == 0 or np.size(scale) != 1 or not hasattr(place, "x"):
            continue
        joints, visible = np.zeros((COUNT, 2)), np.zeros(COUNT)
        for point in np.atleast_1d(points):
            joints[int(point.id)] = float(point.x), float(point.y)
            visible[int(point.id)] = 1
        yield {
            "image": str(image.image.name),
            "center": [float(place.x), float(place.y)],
            "scale": float(scale),
            "joints": joints,
            "joints_vis": visible,
            "head": [[float(person.x1), float(person.y1)], [float(person.x2), float(person.y2)]],
        }
