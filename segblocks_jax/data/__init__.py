"""Data: label tables, data sets, street scenes, augmentation and the input pipeline.

TFDS, Grain and OpenCV are imported only by the calls that need them.
"""

from segblocks_jax.data.augment import Augmentation
from segblocks_jax.data.camvid_labels import CAMVID_FULL
from segblocks_jax.data.evaluation import EvalBatch, eval_batches, pad_to_multiple, padded_sizes
from segblocks_jax.data.labels import CAMVID, CITYSCAPES, IGNORE, LabelTable
from segblocks_jax.data.mapillary_labels import MAPILLARY_V1_2, mapillary_table
from segblocks_jax.data.normalisation import NORMALISATION, Normalisation, normalize
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
    "CAMVID",
    "CAMVID_FULL",
    "CITYSCAPES",
    "DATASETS",
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
    "label_table",
    "mapillary_table",
    "normalize",
    "open_dataset",
    "pad_to_multiple",
    "padded_sizes",
    "train_batches",
]
