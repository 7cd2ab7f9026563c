"""The data of an experiment."""

from segblocks_jax.data import DATASETS, SceneSet, SegmentationSource, open_dataset
from segblocks_jax.systems.segblocks.config import ExperimentConfig


def open_source(
    config: ExperimentConfig, split: str, data_dir: str | None = None
) -> SegmentationSource:
    """Opens a split of the experiment's data set; see `segblocks_jax.data.open_dataset`."""
    data = config.data
    scenes = None
    if DATASETS[data.dataset].generate is not None:
        scenes = SceneSet(
            train=data.scenes[0],
            val=data.scenes[1],
            height=data.scene_size[0],
            width=data.scene_size[1],
        )
    folder = data_dir or data.data_dir
    return open_dataset(data.dataset, folder, split, scenes=scenes, on_error=data.on_error)
