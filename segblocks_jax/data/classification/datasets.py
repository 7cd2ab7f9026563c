"""The data sets of whole images, one entry each: where files lie, the classes, how to normalize, the origin."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

from segblocks_jax.data.classification import cifar, class_folders, tfds_files
from segblocks_jax.data.classification.items import Items
from segblocks_jax.data.classification.shapes import SPLITS
from segblocks_jax.data.normalization import Normalization
from segblocks_jax.errors import InputError, MissingFileError
from segblocks_jax.tasks.classification.labels import CIFAR10, CIFAR100, SHAPES


@dataclasses.dataclass(frozen=True)
class ClassDataset:
    """All that is known of a data set.

    Attributes:
        name: its name for `open_classes`.
        families: names of entry points that serve it.
        splits: that it has.
        normalization: mean and standard deviation of its pixels.
        expected: what its folder must hold.
        read: (folder, split) -> the images; None for a data set that is drawn.
        classes: their names; or (folder) -> names, where only the folder tells.
        counts: images of the published splits.
        origin: where to get it.
    """

    name: str
    families: tuple[str, ...]
    splits: tuple[str, ...]
    normalization: Normalization
    classes: tuple[str, ...] | Callable[[pathlib.Path], tuple[str, ...]]
    expected: str = ""
    read: Callable[[pathlib.Path, str], Items] | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    origin: str = ""


def _cifar(
    name: str, layout: cifar.Layout, classes: tuple[str, ...]
) -> Callable[[pathlib.Path, str], Items]:
    def read(root: pathlib.Path, split: str) -> Items:
        count = len(classes)
        found = cifar.read(root, layout, split, count)
        if found is None:
            found = tfds_files.read(root, name, split, cifar.SIZE, count)
        if found is None and (root / split).is_dir():
            found = class_folders.scan(root / split, classes).in_memory(cifar.SIZE, split)
        if found is None:
            raise MissingFileError(
                f"{root}: holds no {name}; expected {layout.expected}, the files of TFDS in {name}/VERSION, or"
                f" images in {split}/CLASS"
            )
        return found

    return read


def _top(root: pathlib.Path) -> pathlib.Path:
    """Where the splits of ImageNet lie, perhaps as Kaggle has them."""
    kaggle = root / "ILSVRC" / "Data" / "CLS-LOC"
    return kaggle if kaggle.is_dir() else root


def _synsets(root: pathlib.Path) -> tuple[str, ...]:
    folder = _top(root) / "train"
    synsets = class_folders.classes_in(folder)
    if len(synsets) != _IMAGENET_CLASSES:
        raise InputError(
            f"{folder}: has folders of {len(synsets)} classes, expected {_IMAGENET_CLASSES}; unpack it completely, or"
            " take data.dataset=class_folders for a part of ImageNet"
        )
    return synsets


def _imagenet_classes(root: pathlib.Path) -> tuple[str, ...]:
    return class_folders.synset_names(root, _synsets(root))


def _imagenet(root: pathlib.Path, split: str) -> Items:
    return class_folders.scan(_top(root) / split, _synsets(root))


def _own_classes(root: pathlib.Path) -> tuple[str, ...]:
    return class_folders.classes_in(root / "train")


def _own(root: pathlib.Path, split: str) -> Items:
    return class_folders.scan(root / split, _own_classes(root))


_IMAGENET_CLASSES = 1000
_IMAGENET_NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR_ORIGIN = "https://www.cs.toronto.edu/~kriz/cifar.html"
_SETS = (
    ClassDataset(
        name="shapes",
        families=("cifar", "imagenet"),
        splits=SPLITS,
        normalization=Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        classes=SHAPES,
    ),
    ClassDataset(
        name="cifar10",
        families=("cifar",),
        splits=("train", "test"),
        normalization=Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        expected=cifar.CIFAR10.expected,
        read=_cifar("cifar10", cifar.CIFAR10, CIFAR10),
        classes=CIFAR10,
        counts={"train": 50_000, "test": 10_000},
        origin=_CIFAR_ORIGIN,
    ),
    ClassDataset(
        name="cifar100",
        families=("cifar",),
        splits=("train", "test"),
        normalization=Normalization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        expected=cifar.CIFAR100.expected,
        read=_cifar("cifar100", cifar.CIFAR100, CIFAR100),
        classes=CIFAR100,
        counts={"train": 50_000, "test": 10_000},
        origin=_CIFAR_ORIGIN,
    ),
    ClassDataset(
        name="imagenet",
        families=("imagenet",),
        splits=("train", "val"),
        normalization=_IMAGENET_NORMALIZATION,
        expected="train/SYNSET/*.JPEG and val/SYNSET/*.JPEG, of 1000 synsets such as n01440764",
        read=_imagenet,
        classes=_imagenet_classes,
        counts={"train": 1_281_167, "val": 50_000},
        origin="https://image-net.org/download (free registration)",
    ),
    ClassDataset(
        name="class_folders",
        families=("cifar", "imagenet"),
        splits=("train", "val", "test"),
        normalization=_IMAGENET_NORMALIZATION,
        expected="train/CLASS/*.jpg and val/CLASS/*.jpg (or png, webp, bmp)",
        read=_own,
        classes=_own_classes,
    ),
)
CLASS_DATASETS = {dataset.name: dataset for dataset in _SETS}
"""The data sets by name."""


def family(name: str) -> tuple[str, ...]:
    """The names of the data sets that an entry point serves."""
    return tuple(dataset.name for dataset in CLASS_DATASETS.values() if name in dataset.families)
