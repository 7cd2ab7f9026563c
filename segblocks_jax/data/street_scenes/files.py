"""Writes sets of street scenes to disk, in the official Cityscapes layout."""

import dataclasses
import json
import os
import pathlib

from PIL import Image

from segblocks_jax.data.street_scenes.scene import render
from segblocks_jax.errors import InputError, TargetExistsError
from segblocks_jax.paths import expand, whole_folder

_MARKER = "street_scenes.json"
# Raised when the pictures of a seed change, so that sets of an older drawing are seen as such.
_EDITION = 1
_SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class SceneSet:
    """What a set of scenes consists of.

    Attributes:
        train, val: images of the splits, which share none.
        height, width: of an image, in pixels.
        seed: sets of different seeds share no scene.
    """

    train: int = 400
    val: int = 50
    height: int = 512
    width: int = 1024
    seed: int = 0

    def __post_init__(self):
        if min(self.train, self.val, self.height, self.width) < 1 or self.seed < 0:
            raise InputError(f"SceneSet: counts and sizes must be >= 1, seed >= 0, got {self}")

    @property
    def folder_name(self) -> str:
        """A folder name that says all of it."""
        return f"{self.height}x{self.width}_train{self.train}_val{self.val}_seed{self.seed}"

    @classmethod
    def stored_in(cls, folder: pathlib.Path) -> "SceneSet | None":
        """The finished set that a folder holds, None if there is none.

        Raises ValueError for scenes of another edition of the drawing, or a damaged marker.
        """
        marker = folder / _MARKER
        if not marker.is_file():
            return None
        try:
            stored = json.loads(marker.read_text())
            edition = stored.pop("edition")
            if edition == _EDITION:
                return cls(**stored)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{marker}: can't be read ({error}); remove its folder to have the scenes written anew"
            ) from error
        raise InputError(
            f"{folder}: holds street scenes of edition {edition}, this is edition {_EDITION}; "
            "remove the folder to have them written anew"
        )


def write(folder: str | os.PathLike, scenes: SceneSet) -> pathlib.Path:
    """Writes a set, or finds it finished; the folder appears complete or not at all.

    Files are leftImg8bit/<split>/streets/streets_<index>_000019_leftImg8bit.png and
    gtFine/<split>/streets/streets_<index>_000019_gtFine_labelIds.png, and a marker that records
    the set. The folder's parents are created, too.

    Raises:
        ValueError: the folder holds another set.
        FileExistsError: the folder exists and isn't a set of street scenes.
    """
    folder = expand(folder)
    if _holds(folder, scenes):
        return folder
    try:
        with whole_folder(folder) as work:
            for split in _SPLITS:
                for index in range(getattr(scenes, split)):
                    _write_scene(work, split, index, scenes)
            marker = dataclasses.asdict(scenes) | {"edition": _EDITION}
            (work / _MARKER).write_text(json.dumps(marker, indent=1) + "\n")
    except FileExistsError:
        if not _holds(folder, scenes):  # otherwise another process was faster
            raise
    return folder


def find_or_write(parent: pathlib.Path, scenes: SceneSet | None) -> pathlib.Path:
    """The folder of a set: `parent` if it holds one, else one below, named after the set. Raises as `write`."""
    stored = SceneSet.stored_in(parent)
    if stored is not None:
        return write(parent, scenes or stored)
    scenes = scenes or SceneSet()
    return write(parent / "street_scenes" / scenes.folder_name, scenes)


def _holds(folder: pathlib.Path, scenes: SceneSet) -> bool:
    stored = SceneSet.stored_in(folder)
    if stored is None and folder.exists() and any(folder.iterdir()):
        raise TargetExistsError(
            f"{folder}: exists, but holds no finished set of street scenes; choose another folder "
            "or empty this one. Nothing was written."
        )
    if stored not in (None, scenes):
        raise InputError(
            f"{folder}: holds {stored}, wanted {scenes}; choose another folder or remove this one. "
            "Nothing was written."
        )
    return stored is not None


def _write_scene(root: pathlib.Path, split: str, index: int, scenes: SceneSet) -> None:
    # Even numbers train, odd ones val: disjoint however many of each.
    seed = scenes.seed * 2_000_000 + 2 * index + _SPLITS.index(split)
    scene = render(seed, scenes.height, scenes.width)
    outputs = (
        ("leftImg8bit", "leftImg8bit", scene.image),
        ("gtFine", "gtFine_labelIds", scene.label_ids),
    )
    for top, ending, pixels in outputs:
        city = root / top / split / "streets"
        city.mkdir(parents=True, exist_ok=True)
        path = city / f"streets_{index:06d}_000019_{ending}.png"
        Image.fromarray(pixels).save(path, compress_level=3)
