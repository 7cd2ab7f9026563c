"""`open_classes`: a split of a data set of whole images, as a random-access source."""

import dataclasses
import os
import pathlib

import numpy as np
from absl import logging

from segblocks_jax.data.classification.datasets import CLASS_DATASETS, ClassDataset
from segblocks_jax.data.classification.items import Item, Items, Joined, Part
from segblocks_jax.data.classification.shapes import Shapes
from segblocks_jax.data.normalization import Normalization
from segblocks_jax.data.reading import find_folder
from segblocks_jax.errors import InputError

HOLDOUT = "holdout"
"""The split of what is held out of the training images."""


@dataclasses.dataclass(frozen=True)
class ShapeSet:
    """How many shapes to draw in each split, and their (height, width), in pixels."""

    train: int = 2000
    val: int = 500
    test: int = 500
    size: tuple[int, int] = (32, 32)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassSource:
    """Images with a class each: `source[i]` is {"image": uint8 (h, w, 3), "label": int32, "name": str}.

    Attributes:
        name: the data set, one of `CLASS_DATASETS`.
        split: such as "train", or "train+val".
        classes: names, in the order of the labels.
        normalization: mean and standard deviation to normalize with.
        items: the images.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    normalization: Normalization
    items: Items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} {self.split}: item {index} of {len(self)}")
        return self.items[int(index) % len(self)]


def open_classes(
    name: str,
    data_dir: str | os.PathLike | None = None,
    split: str = "train",
    *,
    holdout: int = 0,
    shapes: ShapeSet | None = None,
) -> ClassSource:
    """Opens a split. CIFAR is read into memory, the images of folders when they are asked for.

    Logs a warning if a published data set isn't complete.

    Args:
        name: one of `CLASS_DATASETS`.
        data_dir: folder of the data set, or one that holds it under its name; by default what the environment
            variable SEGBLOCKS_DATA_DIR says. Shapes need none.
        split: one that the data set has, or several with "+"; "holdout" for the `holdout` images.
        holdout: images that are kept out of "train", to choose thresholds or settings on; always the same ones.
        shapes: how many shapes, for "shapes" only.

    Raises:
        ValueError: an unknown name or split, or damaged data.
        FileNotFoundError: the data set or a part of it isn't there.
    """
    if name not in CLASS_DATASETS:
        raise InputError(f"unknown data set {name!r}; known are {', '.join(CLASS_DATASETS)}")
    dataset = CLASS_DATASETS[name]
    if dataset.read is not None and shapes is not None:
        raise InputError(f"open_classes: shapes= is for 'shapes' only, got data set {name!r}")
    check_splits(dataset, split, holdout)
    root = None if dataset.read is None else _folder(dataset, data_dir)
    found = [_read(dataset, root, one, holdout, shapes) for one in split.split("+")]
    items = found[0] if len(found) == 1 else Joined(found)
    classes = _classes(dataset, root)
    return ClassSource(name, split, classes, dataset.normalization, items)


def check_splits(dataset: ClassDataset, split: str, holdout: int) -> None:
    """Raises InputError unless the data set has the splits, with so many images held out."""
    known = (*dataset.splits, HOLDOUT) if holdout else dataset.splits
    if not set(split.split("+")) <= set(known):
        hint = "" if holdout or HOLDOUT not in split else ", and data.holdout above 0 for 'holdout'"
        raise InputError(
            f"{dataset.name} has no split {split!r}; expected some of {known}, joined by +{hint}"
        )


def _read(
    dataset: ClassDataset,
    root: pathlib.Path | None,
    split: str,
    holdout: int,
    shapes: ShapeSet | None,
) -> Items:
    stored = "train" if split == HOLDOUT else split
    if dataset.read is None:
        wanted = shapes or ShapeSet()
        items: Items = Shapes(stored, getattr(wanted, stored), wanted.size)
    else:
        assert root is not None
        items = dataset.read(root, stored)
        count = dataset.counts.get(stored, len(items))
        if len(items) != count:
            logging.warning(
                "%s in %s is not complete: %s has %d of %d images; get %s",
                *(dataset.name, root, stored, len(items), count, dataset.origin),
            )
    if stored != "train" or not holdout:
        return items
    if not 0 < holdout < len(items):
        raise InputError(
            f"data.holdout is {holdout}; expected fewer than the {len(items)} training images"
        )
    order = np.random.default_rng(0).permutation(len(items))
    chosen = order[:holdout] if split == HOLDOUT else order[holdout:]
    return Part(items, np.sort(chosen))


def _folder(dataset: ClassDataset, data_dir: str | os.PathLike | None) -> pathlib.Path:
    given = dataset.name, dataset.expected, data_dir
    return find_folder(*given, origin=dataset.origin, caller="open_classes")


def class_names(name: str, data_dir: str | os.PathLike | None = None) -> tuple[str, ...]:
    """The classes of a data set; looks into its folder where only that tells them."""
    dataset = CLASS_DATASETS[name]
    return _classes(dataset, _folder(dataset, data_dir) if callable(dataset.classes) else None)


def _classes(dataset: ClassDataset, root: pathlib.Path | None) -> tuple[str, ...]:
    if not callable(dataset.classes):
        return dataset.classes
    assert root is not None
    return dataset.classes(root)
