"""MPII Human Pose from its images and its annotation: as JSON, the form that pose estimation shares, or its own file.

A record of the JSON is ``{"image", "center", "scale", "joints", "joints_vis"}``, points counted from 1, the scale of
the person's height in units of 200 pixels. Boxes of heads are in `gt_SPLIT.mat`, or in the records as ``"head"``, two
corners.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from segblocks_jax.data.pose import mpii_mat
from segblocks_jax.errors import InputError, MissingFileError
from segblocks_jax.tasks.pose.joints import COUNT
from segblocks_jax.tasks.pose.person import Person

SPLITS = {"train": "train", "val": "valid"}
"""Names of the files of annotation, by split."""
EXPECTED = (
    f"annot/train.json, annot/valid.json, annot/gt_valid.mat (or {mpii_mat.FILE}) and images/*.jpg"
)
ORIGIN = "http://human-pose.mpi-inf.mpg.de"
_LOWER = 15.0  # Pixels, times the scale: as published, the center moves so far down.
_WIDER = 1.25


def person_of(record: Mapping[str, Any], where: str) -> Person:
    """A person as networks see it, from a record.

    The center moves down by 15 pixels times the scale, the scale grows by a quarter, then all points count from 0.

    Raises:
        InputError: a field is missing or has another form, or a number isn't finite; calls the record `where`.
    """
    try:
        name = record["image"]
        scale = float(record["scale"])
        center, joints, shown = (
            np.array(record[field], np.float64) for field in ("center", "joints", "joints_vis")
        )
        head = record.get("head")
        head = None if head is None else np.asarray(head, np.float64) - 1
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{where}: {type(error).__name__}: {error}; expected image, center, scale, joints and joints_vis"
        ) from error
    shapes = center.shape, joints.shape, shown.shape, (2, 2) if head is None else head.shape
    if shapes != ((2,), (COUNT, 2), (COUNT,), (2, 2)) or not isinstance(name, str):
        raise InputError(
            f"{where}: center, joints, joints_vis and head have shapes {shapes}; expected (2,), ({COUNT}, 2),"
            f" ({COUNT},) and (2, 2), and a name of the image"
        )
    numbers = (
        center,
        joints[shown > 0],
        np.asarray(scale),
        shown,
        *([] if head is None else [head]),
    )
    if not all(np.isfinite(x).all() for x in numbers) or scale <= 0:
        raise InputError(
            f"{where}: has numbers that aren't finite, or a scale of {scale}; expected one above 0"
        )
    if center[0] != -1:  # Unknown, as in the published code.
        center += [0.0, _LOWER * scale]
        scale *= _WIDER
    return Person(name, center - 1, scale, joints - 1, shown > 0, head)


def read(root: pathlib.Path, split: str) -> list[Person]:
    """The people of a split, in the order of the annotation; MPII's own file is taken where there is no JSON.

    Raises:
        FileNotFoundError: the annotation isn't there.
        InputError: it is damaged, or the boxes of heads are of other people.
    """
    file = root / "annot" / f"{SPLITS[split]}.json"
    own = [folder / mpii_mat.FILE for folder in (root, root / "annot")]
    if not file.is_file() and (found := [path for path in own if path.is_file()]):
        records = mpii_mat.read(found[0], split)
        return [person_of(record, f"{found[0]}, person {i}") for i, record in enumerate(records)]
    if not file.is_file():
        raise MissingFileError(f"{file}: missing; expected {EXPECTED} in {root} (get {ORIGIN})")
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: can't be read ({error}); copy it again") from error
    if not isinstance(records, list) or not records:
        raise InputError(f"{file}: holds no list of records; take it as published")
    people = [person_of(record, f"{file}, record {i}") for i, record in enumerate(records)]
    return _with_heads(people, root / "annot" / f"gt_{SPLITS[split]}.mat")


def _with_heads(people: list[Person], file: pathlib.Path) -> list[Person]:
    import scipy.io

    if not file.is_file():
        return people
    try:
        heads = np.asarray(scipy.io.loadmat(file)["headboxes_src"], np.float64)
    except Exception as error:  # SciPy raises many things for damaged files.
        raise InputError(
            f"{file}: holds no headboxes_src ({type(error).__name__}: {error}); copy it again"
        ) from error
    if heads.shape != (2, 2, len(people)):
        raise InputError(
            f"{file}: headboxes_src has shape {heads.shape}, expected (2, 2, {len(people)}), for the people of the"
            " annotation beside it; take both of one publication"
        )
    corners = heads.transpose(2, 0, 1) - 1
    return [dataclasses.replace(p, head=head) for p, head in zip(people, corners, strict=True)]
