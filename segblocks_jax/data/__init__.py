"""Data: label tables, data sets, street scenes, augmentation and the input pipeline.

TFDS and Grain are imported only by the calls that need them.
"""

from segblocks_jax.data.augment import Augmentation
from segblocks_jax.data.labels import CAMVID, CITYSCAPES, IGNORE, LabelTable
from segblocks_jax.data.mapillary_labels import MAPILLARY_V1_2, mapillary_table
from segblocks_jax.data.normalisation import NORMALISATION, Normalisation, normalize
from segblocks_jax.data.pipeline import (
    EvalBatch,
    TrainBatches,
    eval_batches,
    pad_to_multiple,
    train_batches,
)
from segblocks_jax.data.source import TABLES, SegmentationSource, open_dataset
from segblocks_jax.data.street_scenes import SceneSet

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "IGNORE",
    "MAPILLARY_V1_2",
    "NORMALISATION",
    "TABLES",
    "Augmentation",
    "EvalBatch",
    "LabelTable",
    "Normalisation",
    "SceneSet",
    "SegmentationSource",
    "TrainBatches",
    "eval_batches",
    "mapillary_table",
    "normalize",
    "open_dataset",
    "pad_to_multiple",
    "train_batches",
]
