"""What a run of SegBlocks shows while it trains: pictures at each evaluation."""

from segblocks_jax.data import EvalBatch
from segblocks_jax.tasks.segmentation import pictures
from segblocks_jax.tasks.segmentation.labels import LabelTable
from segblocks_jax.tasks.segmentation.result import Segmentation
from segblocks_jax.training.logging import RunLog


class EvalPictures:
    """Logs the first images of an evaluation, the same ones each time: input, labels, grid.

    Called after each batch, as `Evaluator` does with its `on_batch`.
    """

    def __init__(
        self, log: RunLog, step: int, table: LabelTable, count: int, learned: bool
    ) -> None:
        """For `count` images, under the names ``eval/NAME OF THE IMAGE``; scores are shown if `learned`."""
        self._log, self._step, self._table, self._left = log, step, table, count
        self._learned = learned

    def __call__(self, batch: EvalBatch, result: Segmentation) -> None:
        """Logs what of the batch is wanted."""
        for i in range(min(batch.count, self._left)):
            self._left -= 1
            height, width = batch.sizes[i]
            assert result.labels is not None
            logits = result.scores if self._learned else None
            shown = pictures.panels(
                batch.image[i],
                result.labels[i, :height, :width],
                self._table.colors,
                *(None if x is None else x[i] for x in (result.mask, logits)),
            )
            row = pictures.side_by_side(list(shown.values()), list(shown))
            self._log.pictures(self._step, {f"eval/{batch.names[i]}": row})
