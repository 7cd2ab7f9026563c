"""Evaluation batches of people: crops of one size, all batches full."""

import contextlib
import dataclasses
from collections.abc import Generator

import numpy as np
from jaxtyping import Float32, UInt8

from segblocks_jax.data.pose.source import PoseSource
from segblocks_jax.data.reading import batches_of_host, read_batches
from segblocks_jax.ops import no_type_check
from segblocks_jax.tasks.pose.augmentation import PersonCrop
from segblocks_jax.tasks.pose.person import Person


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class PoseBatch:
    """A batch of people for evaluation.

    Attributes:
        image: (n, h, w, 3) crops; black beyond `count`.
        label: (n, 16, 3), see `PersonCrop`; 0 beyond `count`.
        people: the `count` real ones, in their images.
    """

    image: UInt8[np.ndarray, "n h w 3"]
    label: Float32[np.ndarray, "n 16 3"]
    people: tuple[Person, ...]

    @property
    def count(self) -> int:
        """The number of real people; the rest of the batch only fills it up."""
        return len(self.people)


def pose_batches(
    source: PoseSource, crop: PersonCrop, batch_size: int, shard: tuple[int, int] = (0, 1)
) -> Generator[PoseBatch, None, None]:
    """All people once, in order, in batches of `batch_size`.

    Threads read ahead until the generator ends or is closed: use `contextlib.closing` where a loop over it may fail.

    Args:
        source: of `open_people`.
        crop: cuts out every person.
        batch_size: people per batch; the last one is filled up.
        shard: (host, hosts): gives every `hosts`-th batch, beginning with the `host`-th, and reads no others.

    Raises:
        ValueError: a batch size below 1, or no such host.
    """
    groups = batches_of_host(len(source), batch_size, shard, caller="pose_batches")
    return _read(source, crop, batch_size, groups)


def _read(
    source: PoseSource, crop: PersonCrop, batch_size: int, groups: list[range]
) -> Generator[PoseBatch, None, None]:
    def load(index: int) -> tuple:
        item = source[index]
        return *crop(item["image"], item["label"]), item["label"]

    reading = read_batches(load, groups, batch_size, caller="pose_batches")
    with contextlib.closing(reading):
        for items in reading:
            image = np.zeros((batch_size, *crop.size, 3), np.uint8)
            label = np.zeros((batch_size, 16, 3), np.float32)
            for i, (pixels, joints, _) in enumerate(items):
                image[i], label[i] = pixels, joints
            yield PoseBatch(image, label, tuple(person for *_, person in items))
