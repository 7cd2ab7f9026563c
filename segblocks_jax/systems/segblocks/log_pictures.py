"""Pictures of an evaluation in the log: input, labels and grid of the first images."""

import numpy as np
from jaxtyping import UInt8

from segblocks_jax.data import EvalBatch
from segblocks_jax.tasks.segmentation import pictures
from segblocks_jax.tasks.segmentation.result import Segmentation
from segblocks_jax.training.logging import RunLog
from segblocks_jax.training.system import OnBatch


def log_pictures(
    log: RunLog, step: int, count: int, colors: UInt8[np.ndarray, "k 3"], *, learned: bool
) -> OnBatch:
    """Logs the first `count` images of an evaluation; called as its `on_batch`.

    Args:
        log: of the run.
        step: of the evaluation.
        count: of images.
        colors: of the classes.
        learned: whether scores are a learned policy's, and shown.
    """
    left = count

    def on_batch(batch: EvalBatch, result: Segmentation) -> None:
        nonlocal left
        for i in range(min(batch.count, left)):
            left -= 1
            assert result.labels is not None
            height, width = batch.sizes[i]
            labels = result.labels[i, :height, :width]
            scores = result.scores if learned else None
            grid = (None if x is None else x[i] for x in (result.mask, scores))
            shown = pictures.panels(batch.image[i], labels, colors, *grid)
            row = pictures.side_by_side(list(shown.values()), list(shown))
            log.pictures(step, {f"eval/{batch.names[i]}": row})

    return on_batch
