"""The part of a configuration that says which images to classify, and how they are brought to one size."""

import dataclasses
from typing import Any

from segblocks_jax.data.classification.datasets import CLASS_DATASETS
from segblocks_jax.data.classification.source import (
    ClassSource,
    ShapeSet,
    check_splits,
    class_names,
    open_classes,
)
from segblocks_jax.data.normalization import Normalization
from segblocks_jax.errors import InputError
from segblocks_jax.structured_config import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    ConfigError,
    check,
    check_fields,
    field,
    one_of,
)
from segblocks_jax.tasks.classification.augmentation import (
    CenterCrop,
    PadCropFlip,
    RandomResizedCrop,
)

AUGMENTATIONS = ("pad_crop", "resized_crop", "none")


@dataclasses.dataclass(frozen=True)
class ClassDataConfig:
    """What to train and evaluate on.

    Attributes:
        dataset: one of `CLASS_DATASETS`.
        data_dir: its folder; None: the environment's. Shapes need none.
        train_split, eval_split: "train", "val" or "test", as the data set has them; several with "+".
        holdout: number of training images that are kept for the split "holdout", to choose thresholds on.
        mean, std: RGB, to normalize with; None: the data set's.
        crop: (height, width) of what the network sees, in pixels.
        augmentation: "pad_crop" (CIFAR's), "resized_crop" (ImageNet's), or "none".
        padding: of "pad_crop": pixels around the image.
        scale, ratio: of "resized_crop": ranges of the region's area over the image's, and of width over height.
        flip: probability of a horizontal flip.
        resize: in evaluation, pixels of the shorter side before the central crop; None keeps the size.
        workers: processes that read and augment; 0: threads. No part of the batches' content.
        shapes: (train, val, test) number of shapes.
        shape_size: (height, width) of shapes, in pixels.
    """

    dataset: str = field("shapes", one_of(CLASS_DATASETS))
    data_dir: str | None = field(None, affects="nothing")
    train_split: str = "train"
    eval_split: str = "test"
    holdout: int = field(0, NOT_NEGATIVE)
    mean: tuple[float, float, float] | None = field(None, SHARE)
    std: tuple[float, float, float] | None = field(None, POSITIVE)
    crop: tuple[int, int] = field((32, 32), COUNT)
    augmentation: str = field("pad_crop", one_of(AUGMENTATIONS))
    padding: int = field(4, NOT_NEGATIVE)
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = field(0.5, SHARE)
    resize: int | None = field(None, COUNT)
    workers: int = field(0, NOT_NEGATIVE, affects="nothing")
    shapes: tuple[int, int, int] = field((2000, 500, 500), COUNT)
    shape_size: tuple[int, int] = field((32, 32), COUNT)

    def __post_init__(self) -> None:
        check_fields(self, "data.")
        for name in ("train_split", "eval_split"):
            try:
                check_splits(CLASS_DATASETS[self.dataset], getattr(self, name), self.holdout)
            except InputError as error:
                raise ConfigError(f"data.{name}: {error}") from error
        check(
            (self.mean is None) == (self.std is None),
            f"data.mean is {self.mean} and data.std {self.std}; expected both or none of them",
        )
        try:
            self.train_crop()
        except InputError as error:
            raise ConfigError(f"data: {error}") from error

    def train_crop(self) -> Any:
        """What happens to every training image; raises InputError for values that it can't have."""
        if self.augmentation == "pad_crop":
            return PadCropFlip(self.crop, self.padding, self.flip)
        if self.augmentation == "resized_crop":
            return RandomResizedCrop(self.crop, self.scale, self.ratio, self.flip)
        return self.eval_crop()

    def eval_crop(self) -> CenterCrop:
        """What happens to every image in evaluation and prediction."""
        return CenterCrop(self.crop, self.resize)

    @property
    def normalization(self) -> Normalization:
        """Of the images."""
        if self.mean is not None and self.std is not None:
            return Normalization(self.mean, self.std)
        return CLASS_DATASETS[self.dataset].normalization

    def open(self, split: str) -> ClassSource:
        """Opens a split; see `open_classes`."""
        shapes = None
        if self.dataset == "shapes":
            shapes = ShapeSet(*self.shapes, size=self.shape_size)
        return open_classes(self.dataset, self.data_dir, split, holdout=self.holdout, shapes=shapes)

    def classes(self) -> tuple[str, ...]:
        """Names of the classes; opens no more than it must."""
        return class_names(self.dataset, self.data_dir)
