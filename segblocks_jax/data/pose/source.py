"""`open_people`: a split of a data set of people, as a random-access source."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from segblocks_jax.data.images import decode
from segblocks_jax.data.normalization import Normalization
from segblocks_jax.data.pose import figures, mpii
from segblocks_jax.data.pose.figures import Figures
from segblocks_jax.data.reading import find_folder
from segblocks_jax.errors import InputError, MissingFileError
from segblocks_jax.tasks.pose.person import Person

DATASETS = ("figures", "mpii")
"""Names of the data sets."""
SPLITS = {"figures": figures.SPLITS, "mpii": tuple(mpii.SPLITS)}
OUTSIDE = ("error", "hide")
NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""ImageNet's, as published."""
_SHOWN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class PersonFiles:
    """People in image files, read when asked for.

    Attributes:
        root: folder of the files.
        people: in order; a file may show several.
        outside: "error" refuses visible joints outside the image, "hide" takes them as invisible.
    """

    root: pathlib.Path
    people: Sequence[Person]
    outside: str

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> dict[str, Any]:
        person = self.people[index]
        file = self.root / person.image
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file}: can't be read ({error.strerror}); copy it again") from error
        image = decode(content, "image", str(file))
        size = image.shape[0], image.shape[1]
        if self.outside == "hide":
            person = person.within(size)
        person.check_inside(size, f"{file}, person {index} of the annotation")
        return {"image": image, "label": person, "name": person.image}


@dataclasses.dataclass(frozen=True, eq=False)
class PoseSource:
    """People: `source[i]` is {"image": uint8 (h, w, 3), "label": Person, "name": str}.

    Attributes:
        name: the data set, one of `DATASETS`.
        split: of it.
        normalization: mean and standard deviation to normalize with.
        items: random access to them.
    """

    name: str
    split: str
    normalization: Normalization
    items: Figures | PersonFiles

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[int(index)]

    def check_heads(self) -> None:
        """Raises InputError unless each person's head has a box, which scores need."""
        people = self.items.people if isinstance(self.items, PersonFiles) else ()
        without = [i for i, person in enumerate(people) if not _has_head(person)]
        if without:
            raise InputError(
                f"{self.name} {self.split}: {len(without)} of {len(people)} people, such as number {without[0]}, have"
                " no box of the head, which PCKh needs; add"
                f' gt_{mpii.SPLITS[self.split]}.mat to annot/, or "head", two corners, to the records'
            )


def _has_head(person: Person) -> bool:
    head = person.head
    return head is not None and bool(np.linalg.norm(head[1] - head[0]) > 0)


def open_people(
    name: str,
    data_dir: str | os.PathLike | None = None,
    split: str = "train",
    *,
    outside: str = "error",
    figure_count: int = 500,
    figure_size: tuple[int, int] = (128, 128),
) -> PoseSource:
    """Opens a split. Images of files are read when they are asked for.

    Args:
        name: one of `DATASETS`.
        data_dir: folder of MPII, or one that holds it as `mpii`; by default what the environment variable
            SEGBLOCKS_DATA_DIR says. Figures need none.
        split: "train" or "val".
        outside: what becomes of visible joints outside their image: "error" or "hide".
        figure_count: how many figures.
        figure_size: (height, width) of their images, in pixels.

    Raises:
        ValueError: an unknown name, split or `outside`, or damaged data.
        FileNotFoundError: the data set or a part of it isn't there.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    if split not in SPLITS[name]:
        raise InputError(f"{name} has no split {split!r}; expected one of {SPLITS[name]}")
    if outside not in OUTSIDE:
        raise InputError(f"open_people: outside is {outside!r}; expected one of {OUTSIDE}")
    if name == "figures":
        return PoseSource(name, split, NORMALIZATION, Figures(split, figure_count, figure_size))
    root = find_folder("mpii", mpii.EXPECTED, data_dir, origin=mpii.ORIGIN, caller="open_people")
    people, folder = mpii.read(root, split), root / "images"
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder; expected {mpii.EXPECTED} in {root}")
    others = {person.image for person in people} - set(os.listdir(folder))
    missing = sorted(name for name in others if not (folder / name).is_file())
    if missing:
        raise MissingFileError(
            f"{folder}: {len(missing)} images of the annotation aren't there, such as {', '.join(missing[:_SHOWN])};"
            f" unpack the data set completely (get {mpii.ORIGIN})"
        )
    return PoseSource(name, split, NORMALIZATION, PersonFiles(folder, people, outside))
