"""The part of a configuration that says which people to find, and how they are cut out."""

import dataclasses

from segblocks_jax.data.normalization import Normalization
from segblocks_jax.data.pose.source import (
    DATASETS,
    NORMALIZATION,
    OUTSIDE,
    SPLITS,
    PoseSource,
    open_people,
)
from segblocks_jax.errors import InputError
from segblocks_jax.structured_config import (
    COUNT,
    NOT_NEGATIVE,
    SHARE,
    ConfigError,
    Range,
    check,
    check_fields,
    field,
    one_of,
)
from segblocks_jax.tasks.pose.augmentation import PersonCrop
from segblocks_jax.tasks.pose.joints import MPII

_BELOW_1 = Range("a share from 0 to below 1", lambda x: 0 <= x < 1)


@dataclasses.dataclass(frozen=True)
class PoseDataConfig:
    """What to train and evaluate on.

    Attributes:
        dataset: "figures", procedural stick figures, or "mpii".
        data_dir: its folder; None: the environment's. Figures need none.
        train_split, eval_split: "train" or "val".
        crop: (height, width) of what the network sees, in pixels.
        sigma: of the targets' bumps, in pixels of the heat maps.
        flip: probability of a mirror image in training.
        scale: in training, standard deviation and bound of the change of size.
        rotation: in training, standard deviation of the turn in degrees; half its bound.
        rotated: probability of a turn.
        flip_test: whether evaluation takes the mean with the mirror image's heat maps.
        shift_flipped: whether these move by a pixel; see `mirror_back`.
        outside: what becomes of visible joints outside their image: "error" stops, "hide" takes them as invisible.
        bgr: whether the network sees colors as blue, green, red, as the authors' weights want them.
        workers: processes that read and augment; 0: threads. No part of the batches' content.
        figures: (train, val) number of figures.
        figure_size: (height, width) of their images, in pixels.
    """

    dataset: str = field("figures", one_of(DATASETS))
    data_dir: str | None = field(None, affects="nothing")
    train_split: str = "train"
    eval_split: str = "val"
    crop: tuple[int, int] = field((256, 256), COUNT)
    sigma: int = field(2, COUNT)
    flip: float = field(0.5, SHARE)
    scale: float = field(0.25, _BELOW_1)
    rotation: float = field(30.0, NOT_NEGATIVE)
    rotated: float = field(0.6, SHARE)
    flip_test: bool = True
    shift_flipped: bool = True
    outside: str = field("error", one_of(OUTSIDE))
    bgr: bool = False
    workers: int = field(0, NOT_NEGATIVE, affects="nothing")
    figures: tuple[int, int] = field((1000, 200), COUNT)
    figure_size: tuple[int, int] = field((128, 128), COUNT)

    def __post_init__(self) -> None:
        check_fields(self, "data.")
        known = SPLITS[self.dataset]
        for name in ("train_split", "eval_split"):
            split = getattr(self, name)
            check(
                split in known,
                f"data.{name} is {split!r}; {self.dataset} has {', '.join(known)}",
            )
        try:
            self.train_crop()
        except InputError as error:
            raise ConfigError(f"data: {error}") from error

    def train_crop(self) -> PersonCrop:
        """What happens to every person in training."""
        chance = self.scale, self.rotation, self.rotated, self.flip
        return PersonCrop(self.crop, *chance, bgr=self.bgr)

    def eval_crop(self) -> PersonCrop:
        """What happens to every person in evaluation."""
        return PersonCrop(self.crop, bgr=self.bgr)

    @property
    def normalization(self) -> Normalization:
        """Of the images."""
        return NORMALIZATION

    def open(self, split: str) -> PoseSource:
        """Opens a split; see `open_people`."""
        return open_people(
            self.dataset,
            self.data_dir,
            split,
            outside=self.outside,
            figure_count=self.figures[SPLITS["figures"].index(split)],
            figure_size=self.figure_size,
        )

    def classes(self) -> tuple[str, ...]:
        """Names of the joints."""
        return MPII
