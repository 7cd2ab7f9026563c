"""Evaluation batches of whole images: all of one size, all full."""

import contextlib
import dataclasses
from collections.abc import Generator

import numpy as np
from jaxtyping import Int32, UInt8

from segblocks_jax.data.classification.source import ClassSource
from segblocks_jax.data.reading import batches_of_host, read_batches
from segblocks_jax.ops import no_type_check
from segblocks_jax.tasks.classification.augmentation import CenterCrop


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class ClassBatch:
    """A batch of images for evaluation.

    Attributes:
        image: (n, h, w, 3); black beyond `count`.
        label: (n,); 0 beyond `count`.
        names: of the `count` real images.
    """

    image: UInt8[np.ndarray, "n h w 3"]
    label: Int32[np.ndarray, "n"]
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """The number of real images; the rest of the batch only fills it up."""
        return len(self.names)


def class_batches(
    source: ClassSource, crop: CenterCrop, batch_size: int, shard: tuple[int, int] = (0, 1)
) -> Generator[ClassBatch, None, None]:
    """All images once, in order, in batches of `batch_size`.

    Threads read ahead until the generator ends or is closed: use `contextlib.closing` where a loop over it may fail.

    Args:
        source: of `open_classes`.
        crop: brings every image to one size.
        batch_size: images per batch; the last one is filled up.
        shard: (host, hosts): gives every `hosts`-th batch, beginning with the `host`-th, and reads no others.

    Raises:
        ValueError: a batch size below 1, or no such host.
    """
    groups = batches_of_host(len(source), batch_size, shard, caller="class_batches")
    return _read(source, crop, batch_size, groups)


def _read(
    source: ClassSource, crop: CenterCrop, batch_size: int, groups: list[range]
) -> Generator[ClassBatch, None, None]:
    def load(index: int) -> dict:
        item = source[index]
        return {**item, "image": crop(item["image"])[0]}

    reading = read_batches(load, groups, batch_size, caller="class_batches")
    with contextlib.closing(reading):
        for items in reading:
            image = np.zeros((batch_size, *crop.crop, 3), np.uint8)
            label = np.zeros(batch_size, np.int32)
            for i, item in enumerate(items):
                image[i], label[i] = item["image"], item["label"]
            yield ClassBatch(image, label, tuple(item["name"] for item in items))
