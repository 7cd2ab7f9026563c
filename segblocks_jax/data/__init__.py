"""Data: label tables, data sets, street scenes, augmentation and the input pipeline.

TFDS, Grain, OpenCV and Pillow are imported only by what needs them.
"""

from typing import TYPE_CHECKING

from segblocks_jax.lazy import attach

if TYPE_CHECKING:
    from segblocks_jax.data.evaluation import (
        EvalBatch,
        eval_batches,
        pad_to_multiple,
        padded_sizes,
    )
    from segblocks_jax.data.normalization import NORMALIZATION, Normalization, normalize
    from segblocks_jax.data.pipeline import TrainBatches, train_batches
    from segblocks_jax.data.source import (
        DATASETS,
        TABLES,
        SegmentationSource,
        label_table,
        open_dataset,
    )
    from segblocks_jax.data.street_scenes import SceneSet

__all__ = [
    "DATASETS",
    "NORMALIZATION",
    "TABLES",
    "EvalBatch",
    "Normalization",
    "SceneSet",
    "SegmentationSource",
    "TrainBatches",
    "eval_batches",
    "label_table",
    "normalize",
    "open_dataset",
    "pad_to_multiple",
    "padded_sizes",
    "train_batches",
]

_NAMES = {
    "segblocks_jax.data.evaluation": (
        "EvalBatch",
        "eval_batches",
        "pad_to_multiple",
        "padded_sizes",
    ),
    "segblocks_jax.data.normalization": (
        "NORMALIZATION",
        "Normalization",
        "normalize",
    ),
    "segblocks_jax.data.pipeline": (
        "TrainBatches",
        "train_batches",
    ),
    "segblocks_jax.data.source": (
        "DATASETS",
        "TABLES",
        "SegmentationSource",
        "label_table",
        "open_dataset",
    ),
    "segblocks_jax.data.street_scenes": ("SceneSet",),
}
__getattr__, __dir__ = attach(globals(), _NAMES)
