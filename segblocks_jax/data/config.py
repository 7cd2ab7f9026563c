"""The part of a configuration that says what to train and evaluate on."""

import dataclasses

from segblocks_jax.data.datasets import DATASETS
from segblocks_jax.data.source import ON_ERROR
from segblocks_jax.errors import InputError
from segblocks_jax.structured_config import (
    COUNT,
    NOT_NEGATIVE,
    ConfigError,
    check,
    check_fields,
    field,
    one_of,
)
from segblocks_jax.tasks.segmentation.augmentation import Augmentation


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train and evaluate on.

    Attributes:
        dataset: one of `segblocks_jax.data.DATASETS`.
        data_dir: its folder; None: the environment's, or a cache for street scenes.
        train_split, eval_split: "train", "val", "test" or "train_extra"; several with "+".
        on_error: "raise", or "skip" to leave out up to 1% of broken items when data are prepared.
        crop: (height, width) of training crops, in pixels.
        scale: range of the crop's side in the image, over `crop`.
        flip: probability of a horizontal flip.
        jitter: strength of brightness, contrast and saturation.
        hue: strength of the hue jitter, in turns.
        workers: processes that read and augment; 0: threads. No part of the batches' content.
        scenes: (train, val) number of street scenes.
        scene_size: (height, width) of street scenes, in pixels.
    """

    dataset: str = field("cityscapes", one_of(DATASETS))
    data_dir: str | None = field(None, affects="nothing")
    train_split: str = "train"
    eval_split: str = "val"
    on_error: str = field("raise", one_of(ON_ERROR))
    crop: tuple[int, int] = (1024, 1024)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    jitter: float = 0.3
    hue: float = 0.1
    workers: int = field(0, NOT_NEGATIVE, affects="nothing")
    scenes: tuple[int, int] = field((200, 40), COUNT)
    scene_size: tuple[int, int] = field((256, 512), COUNT)

    def __post_init__(self) -> None:
        check_fields(self, "data.")
        for field_name in ("train_split", "eval_split"):
            value, known = getattr(self, field_name), DATASETS[self.dataset].splits
            check(
                set(value.split("+")) <= set(known),
                f"data.{field_name} is {value!r}; expected some of {known}, joined by +",
            )
        self.augmentation()

    def augmentation(self) -> Augmentation:
        """What happens to every training image; raises ConfigError for values that it can't have."""
        try:
            return Augmentation(
                crop=self.crop,
                scale=self.scale,
                flip=self.flip,
                brightness=self.jitter,
                contrast=self.jitter,
                saturation=self.jitter,
                hue=self.hue,
            )
        except InputError as error:
            raise ConfigError(f"data: {error}") from error
