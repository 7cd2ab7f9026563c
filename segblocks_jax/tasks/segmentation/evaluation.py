"""What an evaluation of segmentation adds up over batches, and how its scores are printed."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8

from segblocks_jax.tasks.segmentation.labels import IGNORE
from segblocks_jax.tasks.segmentation.metrics import Scores


class BoundaryDensity:
    """Counts pixels that differ in label from their right or lower neighbor, and all, in two kinds of blocks.

    Attributes:
        counts: [edges, pixels] of [unmarked, marked] blocks.
    """

    def __init__(self, block_size: int) -> None:
        """For blocks of `block_size` pixels a side; nothing is counted yet."""
        self._block_size = block_size
        self.counts: Int[np.ndarray, "2 2"] = np.zeros((2, 2), np.int64)

    def add(self, labels: UInt8[np.ndarray, "n h w"], mask: Bool[np.ndarray, "n gh gw"]) -> None:
        """Counts the pixels of a batch whose marked blocks are True in `mask`."""
        labels = labels.astype(np.int16)
        valid = labels != IGNORE
        edge = np.zeros(labels.shape, bool)
        for axis in (1, 2):
            ahead = [slice(None)] * 3
            ahead[axis] = slice(1, None)
            here = [slice(None)] * 3
            here[axis] = slice(None, -1)
            a, b = tuple(here), tuple(ahead)
            edge[a] |= (labels[a] != labels[b]) & valid[a] & valid[b]
        marked = mask.repeat(self._block_size, 1).repeat(self._block_size, 2)
        for kind, chosen in enumerate((~marked, marked)):
            self.counts[:, kind] += edge[chosen].sum(), valid[chosen].sum()


def boundary_ratio(counts: Int[np.ndarray, "2 2"]) -> float | None:
    """Density of boundary pixels in marked blocks over that in the others; None where there is none."""
    edges, pixels = counts
    if not (pixels.all() and edges[0]):
        return None
    unmarked, marked = edges / pixels
    return float(marked / unmarked)


def format_scores(scores: Scores, class_names: Sequence[str]) -> str:
    """A text table of the IoU of every class and their mean."""
    width = max(map(len, class_names)) + 2
    rows = [*zip(class_names, scores.class_iou, strict=True), ("mIoU", scores.mean_iou)]
    return "\n".join(f"{name:{width}}{value:7.2%}" for name, value in rows)
