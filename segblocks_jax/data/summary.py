"""To look at a data set: contact sheets of augmented batches with their labels, class frequencies."""

import dataclasses
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segblocks_jax.data.source import SegmentationSource
from segblocks_jax.tasks.segmentation.labels import IGNORE, LabelTable


def contact_sheet(
    batches: Iterable[Mapping[str, UInt8[np.ndarray, "n ..."]]],
    table: LabelTable,
    tile: int = 256,
    gap: int = 4,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws batches, two rows a batch: the images, and below each its label in the table's colors.

    Batches are {"image": (n, h, w, 3), "label": (n, h, w)}, all of one shape. An image is `tile` pixels wide on
    the sheet, with `gap` white pixels around it; ignored pixels are black.
    """
    rows = []
    for batch in batches:
        for pictures in (batch["image"], table.colorize(batch["label"])):
            height, width = pictures.shape[1:3]
            size = tile, max(1, round(tile * height / width))
            tiles = [np.asarray(Image.fromarray(p).resize(size)) for p in pictures]
            edges = ((gap, 0), (gap, 0), (0, 0))
            rows.append(np.hstack([np.pad(t, edges, constant_values=255) for t in tiles]))
    return np.pad(np.vstack(rows), ((0, gap), (0, gap), (0, 0)), constant_values=255)


@dataclasses.dataclass(frozen=True)
class Frequencies:
    """How often each class occurs in a data set of `total` images.

    Attributes:
        classes: names.
        pixels, images: of each class, and those that contain it; at the end those of what is ignored.
    """

    classes: tuple[str, ...]
    pixels: list[int]
    images: list[int]
    total: int

    @property
    def shares(self) -> list[float]:
        """Of all pixels."""
        return [count / max(1, sum(self.pixels)) for count in self.pixels]

    def table(self) -> str:
        """As text: a line a class with its share of pixels and number of images."""
        names = (*self.classes, "(ignored)")
        width = max(map(len, names))
        lines = [f"{'class':{width}}  pixels %  in images (of {self.total})"]
        lines += [
            f"{name:{width}}  {100 * share:8.3f}  {images}"
            for name, share, images in zip(names, self.shares, self.images, strict=True)
        ]
        return "\n".join(lines)


def class_frequencies(source: SegmentationSource) -> Frequencies:
    """Counts the classes of all labels of a source."""
    classes = source.table.classes
    k = len(classes)

    def count(index: int) -> np.ndarray:
        counts = np.bincount(source[index]["label"].reshape(-1), minlength=256)
        return np.append(counts[:k], counts[IGNORE])

    with ThreadPoolExecutor() as pool:
        counts = np.stack([*pool.map(count, range(len(source)))])
    return Frequencies(
        classes, counts.sum(0).tolist(), (counts > 0).sum(0).tolist(), total=len(source)
    )
